// The state of the driver in this process, and the way into every call.
//
// A call of the API is `return InContext("cuName", [&](Context& context) { … })`, or Initialized where no
// context is needed. In that order: an injected fault of that name, CUDA_ERROR_NOT_INITIALIZED before cuInit
// and in a forked child, CUDA_ERROR_NOT_PERMITTED inside a host function, no context, a sticky error.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_H_

#include <cuda.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/fake_cuda/context.h"
#include "tests/fake_cuda/counters.h"
#include "tests/fake_cuda/event.h"
#include "tests/fake_cuda/memory_map.h"
#include "tests/fake_cuda/options.h"

namespace keepstep::fake_cuda {

struct VmmHandle {
  std::shared_ptr<Physical> physical;
  int references = 1;
};

// Thread-safe. Lives for as long as the process: threads of streams may outlast main.
class Driver {
 public:
  static Driver& Get();

  CUresult Initialize();

  // What a call begins with; CUDA_SUCCESS when it may go on.
  CUresult Enter(const char* call);
  CUresult EnterContext(const char* call, Context*& context);

  const Options& options() const { return options_; }
  Counters& counters() { return counters_; }
  MemoryMap& memory() { return memory_; }

  // The context of the GPU with this ordinal; null when there is none.
  Context* ContextOf(int ordinal);
  // Its ordinal by UUID; -1 when it is not visible here.
  int Ordinal(const Uuid& uuid) const;
  // The context behind a CUcontext; null when it is none.
  Context* Known(CUcontext context);

  // New memory of the context's GPU, counted until its last user lets go; null when there is no more.
  std::shared_ptr<Physical> Allocate(Context& context, Use use, size_t size_bytes, uint32_t handle_types = 0);

  // Ends a context with all it holds: streams, events, memory, mappings. VMM memory is the process's and
  // stays.
  void Destroy(Context& context);

  // Handles that the API gave out. Null for any other.
  std::shared_ptr<Stream> FindStream(Context& context, CUstream handle);
  CUstream AddStream(Context& context, std::shared_ptr<Stream> stream);
  bool CloseStream(CUstream handle);

  std::shared_ptr<Event> FindEvent(CUevent handle);
  CUevent AddEvent(Context& context, std::shared_ptr<Event> event);
  bool RemoveEvent(CUevent handle);
  bool HasEvent(const Identity& identity);  // made here, to be opened elsewhere

  // A reference to `physical`: the handle that there is already, or a new one.
  CUmemGenericAllocationHandle ReferVmm(std::shared_ptr<Physical> physical);
  std::shared_ptr<Physical> FindVmm(CUmemGenericAllocationHandle handle);
  bool ReleaseVmm(CUmemGenericAllocationHandle handle);

 private:
  struct OwnedStream {
    Context* context;
    std::shared_ptr<Stream> stream;
  };
  struct OwnedEvent {
    Context* context;
    std::shared_ptr<Event> event;
  };

  CUresult Injected(const char* call);
  bool Ready() const;

  Options options_;
  Counters counters_;
  MemoryMap memory_;
  std::vector<std::unique_ptr<Context>> contexts_;  // by ordinal; fixed once initialized
  std::atomic<int> initialized_pid_ = 0;
  CUresult initialize_result_ = CUDA_SUCCESS;

  std::mutex mutex_;
  std::map<CUstream, OwnedStream> streams_;
  std::map<CUevent, OwnedEvent> events_;
  std::map<CUmemGenericAllocationHandle, VmmHandle> vmm_handles_;
  std::map<const Physical*, CUmemGenericAllocationHandle> vmm_by_physical_;
  CUmemGenericAllocationHandle last_vmm_handle_ = 0;
  std::mutex fault_mutex_;
  std::map<std::string, int64_t, std::less<>> calls_;
};

// The calling thread's stack of current contexts; the last is current.
std::vector<Context*>& CurrentContexts();

template <typename Function>
CUresult Initialized(const char* call, Function&& function) {
  const CUresult entered = Driver::Get().Enter(call);
  return entered == CUDA_SUCCESS ? function() : entered;
}

template <typename Function>
CUresult InContext(const char* call, Function&& function) {
  Context* context = nullptr;
  const CUresult entered = Driver::Get().EnterContext(call, context);
  return entered == CUDA_SUCCESS ? function(*context) : entered;
}

// With the stream that `handle` names; CUDA_ERROR_INVALID_HANDLE when there is none.
template <typename Function>
CUresult OnStream(const char* call, CUstream handle, Function&& function) {
  return InContext(call, [&](Context& context) -> CUresult {
    const std::shared_ptr<Stream> stream = Driver::Get().FindStream(context, handle);
    return stream ? function(context, *stream) : CUDA_ERROR_INVALID_HANDLE;
  });
}

// What a call that has waited returns: the error that came up meanwhile, if any.
inline CUresult Waited(Context& context) { return context.sticky().code(); }

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_H_
