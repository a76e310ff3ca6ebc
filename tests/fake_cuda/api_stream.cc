// Streams, host functions, and waits for and writes of words in memory.

#include <chrono>
#include <thread>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

constexpr auto kPoll = std::chrono::microseconds(50);

CUresult Create(Context& context, CUstream* stream, unsigned flags) {
  if (!stream || (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  *stream = Driver::Get().AddStream(context, context.NewStream(flags == CU_STREAM_DEFAULT));
  return CUDA_SUCCESS;
}

// The word at `address` as the GPU sees it: in its own memory or in registered host memory; null anywhere
// else.
template <typename Word>
std::optional<Piece> WordAt(uint64_t address, Access access) {
  MemoryMap& memory = Driver::Get().memory();
  std::vector<Piece> pieces;
  if (!memory.IsDevice(address) && !memory.FindHost(address)) return std::nullopt;
  if (memory.Resolve(address, sizeof(Word), access, pieces) != CUDA_SUCCESS || pieces.size() != 1) {
    return std::nullopt;
  }
  return pieces.front();
}

template <typename Word>
std::atomic_ref<Word> In(const Piece& piece) {
  return std::atomic_ref<Word>(*reinterpret_cast<Word*>(piece.data));
}

template <typename Word>
bool Holds(Word there, Word value, unsigned flags) {
  switch (flags & ~static_cast<unsigned>(CU_STREAM_WAIT_VALUE_FLUSH)) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return static_cast<std::make_signed_t<Word>>(there - value) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
      return there == value;
    case CU_STREAM_WAIT_VALUE_AND:
      return (there & value) != 0;
    default:
      return static_cast<Word>(~(there | value)) != 0;
  }
}

template <typename Word>
CUresult CheckWord(CUdeviceptr address) {
  if (!Driver::Get().options().stream_memory_operations) return CUDA_ERROR_NOT_SUPPORTED;
  if (address % sizeof(Word) != 0 || !WordAt<Word>(address, Access::kMapped)) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

template <typename Word>
CUresult WaitValue(const char* call, CUstream stream, CUdeviceptr address, Word value, unsigned flags) {
  return OnStream(call, stream, [&](Context& context, Stream& on) -> CUresult {
    if (const CUresult checked = CheckWord<Word>(address); checked != CUDA_SUCCESS) return checked;
    if ((flags & ~static_cast<unsigned>(CU_STREAM_WAIT_VALUE_FLUSH)) > CU_STREAM_WAIT_VALUE_NOR) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    context.Enqueue(on, [&context, address, value, flags](Time ready) {
      while (context.sticky().code() == CUDA_SUCCESS) {
        const std::optional<Piece> word = WordAt<Word>(address, Access::kRead);
        if (!word) {
          context.sticky().Set(CUDA_ERROR_ILLEGAL_ADDRESS);
        } else if (Holds<Word>(In<Word>(*word).load(), value, flags)) {
          break;
        } else {
          std::this_thread::sleep_for(kPoll);
        }
      }
      return std::chrono::steady_clock::now();
    });
    return CUDA_SUCCESS;
  });
}

template <typename Word>
CUresult WriteValue(const char* call, CUstream stream, CUdeviceptr address, Word value, unsigned flags) {
  return OnStream(call, stream, [&](Context& context, Stream& on) -> CUresult {
    if (const CUresult checked = CheckWord<Word>(address); checked != CUDA_SUCCESS) return checked;
    if (flags > CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER) return CUDA_ERROR_INVALID_VALUE;
    context.Enqueue(on, [&context, address, value](Time ready) {
      if (const std::optional<Piece> word = WordAt<Word>(address, Access::kWrite)) {
        In<Word>(*word).store(value);
      } else {
        context.sticky().Set(CUDA_ERROR_ILLEGAL_ADDRESS);
      }
      return ready;
    });
    return CUDA_SUCCESS;
  });
}

}  // namespace

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned int flags) {
  return InContext("cuStreamCreate", [&](Context& context) { return Create(context, stream, flags); });
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int priority) {
  return InContext("cuStreamCreateWithPriority",
                   [&](Context& context) { return Create(context, stream, flags); });
}

CUresult CUDAAPI cuStreamDestroy(CUstream stream) {
  return InContext("cuStreamDestroy", [&](Context& context) -> CUresult {
    return Driver::Get().CloseStream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult CUDAAPI cuStreamSynchronize(CUstream stream) {
  return OnStream("cuStreamSynchronize", stream, [&](Context& context, Stream& on) -> CUresult {
    on.Wait(on.queued());
    return Waited(context);
  });
}

CUresult CUDAAPI cuStreamQuery(CUstream stream) {
  return OnStream("cuStreamQuery", stream, [&](Context& context, Stream& on) -> CUresult {
    if (!on.Through(on.queued())) return CUDA_ERROR_NOT_READY;
    return Waited(context);
  });
}

CUresult CUDAAPI cuStreamGetCtx(CUstream stream, CUcontext* result) {
  return OnStream("cuStreamGetCtx", stream, [&](Context& context, Stream&) -> CUresult {
    if (!result) return CUDA_ERROR_INVALID_VALUE;
    *result = reinterpret_cast<CUcontext>(&context);
    return CUDA_SUCCESS;
  });
}

// Which record is waited for is settled now, and none is none: an event that is recorded later orders
// nothing.
CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent handle, unsigned int flags) {
  return OnStream("cuStreamWaitEvent", stream, [&](Context& context, Stream& on) -> CUresult {
    const std::shared_ptr<Event> event = Driver::Get().FindEvent(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const uint32_t record = event->newest();
    if (event->Completed(record)) return CUDA_SUCCESS;
    context.Enqueue(on, [&context, event, record](Time ready) {
      event->Wait(record, context.sticky());
      return std::chrono::steady_clock::now();
    });
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return OnStream("cuLaunchHostFunc", stream, [&](Context& context, Stream& on) -> CUresult {
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    context.Enqueue(on, [function, data](Time) {
      InHostFunction() = true;
      function(data);
      InHostFunction() = false;
      return std::chrono::steady_clock::now();
    });
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                     unsigned int flags) {
  return WaitValue<uint32_t>("cuStreamWaitValue32", stream, address, value, flags);
}

CUresult CUDAAPI cuStreamWaitValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                     unsigned int flags) {
  return WaitValue<uint64_t>("cuStreamWaitValue64", stream, address, value, flags);
}

CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                      unsigned int flags) {
  return WriteValue<uint32_t>("cuStreamWriteValue32", stream, address, value, flags);
}

CUresult CUDAAPI cuStreamWriteValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                      unsigned int flags) {
  return WriteValue<uint64_t>("cuStreamWriteValue64", stream, address, value, flags);
}
