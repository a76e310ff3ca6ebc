#include "client/grpc_use.h"

#include <grpc/grpc.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "client/failure.h"

namespace keepstep::client {
namespace {

constexpr std::chrono::milliseconds kLook{1}, kLast{1'000};

// Never destroyed: clients may be closed while the process ends.
struct Users {
  std::mutex mu;
  int count = 0;       // guarded by mu
  bool alone = false;  // guarded by mu; nobody used gRPC before the first of them
  std::atomic<pid_t> process{0};  // in which gRPC may be up; read in a fork, where `mu` may be locked for ever
};

Users& All() {
  static Users& users = *new Users;
  return users;
}

}  // namespace

absl::Status GrpcUse::Check() {
  const pid_t process = All().process;
  if (process == 0 || process == getpid()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "FORKED",
                   "this process was forked from one that used gRPC, which does not survive it; fork before a client is "
                   "opened or after it is closed, or start the child by spawn",
                   "open");
}

GrpcUse::GrpcUse() {
  Users& users = All();
  users.process = getpid();
  std::lock_guard lock(users.mu);
  users.process = getpid();  // the last client may have been closed meanwhile
  if (users.count++ == 0) users.alone = grpc_is_initialized() == 0;
  grpc_init();
}

GrpcUse::~GrpcUse() {
  Users& users = All();
  std::lock_guard lock(users.mu);
  grpc_shutdown_blocking();
  if (--users.count > 0) return;
  const auto deadline = std::chrono::steady_clock::now() + kLast;
  while (users.alone && grpc_is_initialized() != 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(kLook);
  if (grpc_is_initialized() == 0) users.process = 0;
}

}  // namespace keepstep::client
