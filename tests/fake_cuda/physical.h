// The bytes behind device memory: a piece of a memfd, mapped into this process at an address that no test
// learns.
//
// Handles work across processes because a memfd does: whoever has its descriptor, from /proc/PID/fd or over a
// socket, maps the same pages, and the kernel keeps them until the last descriptor and mapping in any process
// is gone. Each piece begins with a page that says what it is (Label), so that a handle can be checked
// against what it leads to.
//
// Small pieces share a memfd (a slab): a process can have more allocations than descriptors. Memory for
// descriptor handles never does, as a descriptor shows all of its file.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_PHYSICAL_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_PHYSICAL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "tests/fake_cuda/options.h"

namespace keepstep::fake_cuda {

enum class Use : uint32_t { kMemory = 1, kPool = 2, kVmm = 3, kEvent = 4 };

using Identity = std::array<unsigned char, 16>;

// The first page of a piece, shared by all processes that map it.
struct Label {
  char magic[8];
  Identity identity;  // random: tells this piece from any other there ever was
  Uuid device;
  uint64_t size_bytes;          // of the data behind the page
  uint32_t use;                 // Use
  uint32_t handle_types;        // CUmemAllocationHandleType of VMM memory
  int32_t maker;                // the process that allocated it
  std::atomic<uint32_t> freed;  // 1 once the exporter has freed it
};

// What a legacy handle holds, in its 64 bytes.
struct HandleBytes {
  char magic[8];
  int64_t pid;
  int32_t fd;
  uint32_t use;
  uint64_t offset_bytes;
  Identity identity;
  Uuid device;
};
static_assert(sizeof(HandleBytes) == 64);

class MemoryFile;

class Physical {
 public:
  // New, zeroed; null when the system has no more. `handle_types` is for VMM memory.
  static std::shared_ptr<Physical> Create(Use use, const Uuid& device, size_t size_bytes,
                                          uint32_t handle_types = 0);

  // What `fd` shows at `offset_bytes`, duplicating nothing: it takes `fd`. Null when that is no such piece.
  static std::shared_ptr<Physical> Open(int fd, uint64_t offset_bytes);

  // What the handle names in a living process that has not freed it; null otherwise.
  static std::shared_ptr<Physical> OpenHandle(const HandleBytes& handle);

  ~Physical();
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;

  // A handle to this piece, good for as long as this process holds it.
  HandleBytes Handle();

  // The exporter frees it: later opens fail, and if it was ever exported its bytes become 0xDD, which is what
  // an importer that still maps it reads from now on.
  void Free();

  // Whether the process that allocated it has died and been waited for.
  bool MakerIsGone() const;

  Label& label() const { return *label_; }
  char* data() const;
  size_t size_bytes() const { return label_->size_bytes; }
  int fd() const;  // of the whole file, owned by this; -1 when opened by a handle

 private:
  Physical(std::shared_ptr<MemoryFile> file, uint64_t offset_bytes, bool in_own_slab);

  std::shared_ptr<MemoryFile> file_;
  uint64_t offset_bytes_;
  Label* label_;
  const bool in_own_slab_;
  bool exported_ = false;
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_PHYSICAL_H_
