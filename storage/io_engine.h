// An IoEngine moves bytes between memory and files off the caller's thread: io_uring, or a pool of threads
// where the kernel or a container blocks io_uring. Both behave alike, so everything above is tested against
// both.
//
// Knows nothing of paths or meaning: results are byte counts and errno values; FileStore turns them into
// statuses.

#ifndef KEEPSTEP_STORAGE_IO_ENGINE_H_
#define KEEPSTEP_STORAGE_IO_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace keepstep::storage {

struct IoOp {
  enum class Kind { kRead, kWrite };

  Kind kind;
  int fd;
  int64_t offset_bytes;
  void* data;  // written to the file by kWrite, filled by kRead; valid until `done`
  size_t size_bytes;
  // Reads only what lies in the page cache: -EAGAIN, or fewer bytes than asked, where it does not.
  bool cached_only = false;
  // The bytes moved (all of them, or fewer at the end of a file or of the cached range), or a negative errno
  // value.
  std::function<void(int64_t)> done;
};

// Thread-safe. The destructor waits for every submitted operation, those that a `done` submits included.
class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // Starts `op` and returns. Its `done` runs exactly once, on an engine's thread, and must not block; or
  // within this call with -ENOBUFS when the queue is full. Interrupted and short transfers are continued
  // here; operations complete in any order.
  virtual void Submit(IoOp op) = 0;
};

struct IoEngineOptions {
  enum class Kind { kAuto, kUring, kThreads };

  Kind kind = Kind::kAuto;
  int uring_threads = 2;     // 1..16, one ring each
  int uring_depth = 32;      // 1..1024 operations in flight in each ring
  int pool_threads = 8;      // 1..256, for kThreads
  size_t max_queued = 4096;  // operations waiting, per ring or pool
};

struct IoEngineChoice {
  std::unique_ptr<IoEngine> engine;
  std::string name;    // "io_uring" or "threads"
  std::string reason;  // one line for the log: why this one
};

// Starts the engine that the options ask for; kAuto takes io_uring if a real ring works here. UNAVAILABLE
// when kUring was asked for and does not work; INVALID_ARGUMENT for options out of range.
absl::StatusOr<IoEngineChoice> MakeIoEngine(const IoEngineOptions& options);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_IO_ENGINE_H_
