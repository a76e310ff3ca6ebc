// The C ABI for allocators of frameworks, whose functions have no argument for a client: one client of the process at a
// time is theirs.

#include <cstdio>
#include <mutex>

#include "client/c_pool.h"
#include "client/keepstep.h"

namespace keepstep::client {
namespace {

std::mutex& Mutex() {
  static std::mutex& mutex = *new std::mutex();
  return mutex;
}

ks_client* in_use = nullptr;  // guarded by Mutex(), which an allocation holds: closing waits for it

}  // namespace

void PoolClientCloses(ks_client* client) {
  std::lock_guard lock(Mutex());
  if (in_use == client) in_use = nullptr;
}

void UseForPool(ks_client* client) {
  std::lock_guard lock(Mutex());
  in_use = client;
}

}  // namespace keepstep::client

using keepstep::client::in_use;
using keepstep::client::Mutex;

extern "C" {

void* ks_pool_alloc(ptrdiff_t bytes, int32_t device, void*) {
  std::lock_guard lock(Mutex());
  ks_error error{};
  void* data = nullptr;
  if (in_use == nullptr) {
    std::fprintf(stderr, "keepstep: no GPU memory for the pool: its client is closed\n");
  } else if (ks_device_alloc(in_use, device, bytes, &data, &error) != KS_OK) {
    std::fprintf(stderr, "keepstep: no GPU memory for the pool: %s (%s)\n", error.message, error.reason);
  }
  return data;
}

void ks_pool_free(void* data, ptrdiff_t, int32_t, void*) {
  std::lock_guard lock(Mutex());
  ks_error error{};
  if (data != nullptr && ks_device_free(in_use, data, &error) != KS_OK)
    std::fprintf(stderr, "keepstep: freeing GPU memory of the pool: %s (%s)\n", error.message, error.reason);
}

}  // extern "C"
