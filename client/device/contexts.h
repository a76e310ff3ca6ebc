// The GPUs of this process, and the contexts in which their memory is worked with.

#ifndef KEEPSTEP_CLIENT_DEVICE_CONTEXTS_H_
#define KEEPSTEP_CLIENT_DEVICE_CONTEXTS_H_

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "third_party/cuda_driver/cuda_driver.h"

namespace keepstep::client {

// "allocating: CUDA_ERROR_… (2): …", ABORTED (DEVICE_ERROR).
absl::Status DriverError(const cuda::Driver& cu, CUresult result, absl::string_view doing);

// CUDA's names for the default streams of the context that is current.
inline bool IsDefaultStream(CUstream stream) {
  return stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD;
}

// Makes a context current on this thread, and puts back what was: where that is not to be learnt, it changes nothing.
class InContext {
 public:
  InContext(const cuda::Driver& cu, CUcontext context) : cu_(cu), result_(cu.cuCtxGetCurrent(&before_)) {
    changed_ = result_ == CUDA_SUCCESS && context != before_;
    if (changed_) result_ = cu_.cuCtxSetCurrent(context);
  }
  ~InContext() {
    if (changed_) (void)cu_.cuCtxSetCurrent(before_);
  }
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;

  CUresult result() const { return result_; }

 private:
  const cuda::Driver& cu_;
  CUcontext before_ = nullptr;
  bool changed_ = false;
  CUresult result_;
};

// Waits for what is queued on `stream`. A driver that fails is asked once more: it may have failed before it waited. The
// first error; `*drained` false: the second try failed too, and nothing says when the stream's copies stop landing.
CUresult Drain(const cuda::Driver& cu, CUcontext context, CUstream stream, bool* drained);

// Thread-safe.
class Contexts {
 public:
  explicit Contexts(const cuda::Driver& cu) : cu_(cu) {}
  ~Contexts();  // lets go of the contexts that it holds

  // For memory that belongs to a GPU and to no context: the calling thread's if it is that GPU's, else the
  // GPU's primary context, which is the one that frameworks use; held from then on.
  absl::StatusOr<CUcontext> For(int device);

  // Keeps the GPU's primary context, if it is in use, so that what was made in it can be unmade at the end.
  void Keep(int device);

  // A context in which the driver can be asked about any address: the calling thread's, else one that is in
  // use.
  absl::StatusOr<CUcontext> Any();

  // Of the GPU; 16 bytes.
  absl::StatusOr<std::string> Uuid(int device);

  // The context of a stream that is no default one; also for a thread that has no context.
  CUresult OfStream(CUstream stream, CUcontext* context);

  // The GPU of `context`.
  absl::StatusOr<int> DeviceOf(CUcontext context) const;

 private:
  bool InUse(int device) const;
  absl::StatusOr<CUcontext> Hold(int device);

  const cuda::Driver& cu_;
  std::mutex mu_;
  std::map<int, CUcontext> held_;     // guarded by mu_; primary contexts, by device
  std::map<int, std::string> uuids_;  // guarded by mu_
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_CONTEXTS_H_
