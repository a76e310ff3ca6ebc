#include "tests/fake_cuda/driver.h"

#include <unistd.h>

#include <cstring>

namespace keepstep::fake_cuda {

Driver& Driver::Get() {
  static Driver& driver = *new Driver;
  return driver;
}

CUresult Driver::Initialize() {
  std::lock_guard lock(mutex_);
  if (initialized_pid_ != 0) return Ready() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
  std::optional<Options> options = ReadOptions();
  if (!options) return CUDA_ERROR_INVALID_VALUE;
  options_ = *options;
  if (options_.devices.empty()) return CUDA_ERROR_NO_DEVICE;
  if (!counters_.Open(options_.counters_file) || !memory_.Start()) return CUDA_ERROR_SYSTEM_NOT_READY;
  for (size_t i = 0; i < options_.devices.size(); ++i) {
    const int number = counters_.DeviceNumber(options_.devices[i].uuid);
    if (number < 0) return CUDA_ERROR_SYSTEM_NOT_READY;
    contexts_.push_back(std::make_unique<Context>(static_cast<int>(i), options_.devices[i], number));
  }
  initialized_pid_ = getpid();
  return CUDA_SUCCESS;
}

bool Driver::Ready() const { return initialized_pid_ == getpid(); }

CUresult Driver::Injected(const char* call) {
  if (options_.faults.empty()) return CUDA_SUCCESS;
  std::unique_lock lock(fault_mutex_);
  const int64_t nth = ++calls_[call];
  for (size_t i = 0; i < options_.faults.size(); ++i) {
    const Fault& fault = options_.faults[i];
    if (fault.call != call || (fault.nth != 0 && fault.nth != nth)) continue;
    if (fault.once && !counters_.FireOnce(static_cast<int>(i))) continue;
    lock.unlock();
    while (fault.hangs) pause();
    const auto code = static_cast<CUresult>(fault.code);
    if (IsSticky(code) && !CurrentContexts().empty()) CurrentContexts().back()->sticky().Set(code);
    return code;
  }
  return CUDA_SUCCESS;
}

CUresult Driver::Enter(const char* call) {
  if (!Ready()) return CUDA_ERROR_NOT_INITIALIZED;
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  return Injected(call);
}

CUresult Driver::EnterContext(const char* call, Context*& context) {
  const CUresult entered = Enter(call);
  if (entered != CUDA_SUCCESS) return entered;
  if (CurrentContexts().empty()) return CUDA_ERROR_INVALID_CONTEXT;
  context = CurrentContexts().back();
  if (context->retained == 0) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return context->sticky().code();
}

Context* Driver::ContextOf(int ordinal) {
  return ordinal >= 0 && ordinal < static_cast<int>(contexts_.size()) ? contexts_[ordinal].get() : nullptr;
}

int Driver::Ordinal(const Uuid& uuid) const {
  for (const std::unique_ptr<Context>& context : contexts_) {
    if (context->options().uuid == uuid) return context->ordinal();
  }
  return -1;
}

Context* Driver::Known(CUcontext handle) {
  for (const std::unique_ptr<Context>& context : contexts_) {
    if (reinterpret_cast<CUcontext>(context.get()) == handle) return context.get();
  }
  return nullptr;
}

std::vector<Context*>& CurrentContexts() {
  thread_local std::vector<Context*> current;
  return current;
}

std::shared_ptr<Physical> Driver::Allocate(Context& context, Use use, size_t size_bytes,
                                           uint32_t handle_types) {
  const int number = context.device_number();
  const auto bytes = static_cast<int64_t>(size_bytes);
  if (!counters_.TakeMemory(number, bytes, options_.memory_bytes)) return nullptr;
  std::shared_ptr<Physical> physical =
      Physical::Create(use, context.options().uuid, size_bytes, handle_types);
  if (!physical) {
    counters_.GiveMemory(number, bytes);
    return nullptr;
  }
  if (options_.dirty) std::memset(physical->data(), 0xDB, size_bytes);
  // The deleter counts, so that what is still mapped or copied from stays counted.
  Physical* raw = physical.get();
  return {raw, [this, physical = std::move(physical), number, bytes](Physical*) mutable {
            physical.reset();
            counters_.GiveMemory(number, bytes);
          }};
}

void Driver::Destroy(Context& context) {
  context.Synchronize();
  counters_.Add(kStreams, -context.CloseAll());
  {
    std::lock_guard lock(mutex_);
    std::erase_if(streams_, [&](const auto& entry) { return entry.second.context == &context; });
    counters_.Add(kEvents, -static_cast<int64_t>(std::erase_if(events_, [&](const auto& entry) {
                    return entry.second.context == &context;
                  })));
  }
  std::vector<CUdeviceptr> bases;
  memory_.Change([&](Range& range) {
    if (range.device == context.ordinal() && range.kind != Range::Kind::kVirtual) bases.push_back(range.base);
    return false;
  });
  for (CUdeviceptr base : bases) {
    const std::optional<Range> range = memory_.Remove(base, [](const Range&) { return true; });
    if (!range) continue;
    if (range->kind == Range::Kind::kImported) {
      counters_.Add(kImports, -1);
    } else {
      range->physical->Free();
    }
  }
}

std::shared_ptr<Stream> Driver::FindStream(Context& context, CUstream handle) {
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return context.LegacyStream();
  if (handle == CU_STREAM_PER_THREAD) return context.ThreadStream();
  std::lock_guard lock(mutex_);
  auto found = streams_.find(handle);
  return found != streams_.end() && found->second.context == &context ? found->second.stream : nullptr;
}

CUstream Driver::AddStream(Context& context, std::shared_ptr<Stream> stream) {
  std::lock_guard lock(mutex_);
  const auto handle = reinterpret_cast<CUstream>(stream.get());
  streams_[handle] = {&context, std::move(stream)};
  counters_.Add(kStreams, 1);
  return handle;
}

bool Driver::CloseStream(CUstream handle) {
  std::lock_guard lock(mutex_);
  auto found = streams_.find(handle);
  if (found == streams_.end()) return false;
  found->second.context->CloseStream(found->second.stream.get());
  streams_.erase(found);
  counters_.Add(kStreams, -1);
  return true;
}

std::shared_ptr<Event> Driver::FindEvent(CUevent handle) {
  std::lock_guard lock(mutex_);
  auto found = events_.find(handle);
  return found == events_.end() ? nullptr : found->second.event;
}

CUevent Driver::AddEvent(Context& context, std::shared_ptr<Event> event) {
  std::lock_guard lock(mutex_);
  const auto handle = reinterpret_cast<CUevent>(event.get());
  events_[handle] = {&context, std::move(event)};
  counters_.Add(kEvents, 1);
  return handle;
}

bool Driver::RemoveEvent(CUevent handle) {
  std::lock_guard lock(mutex_);
  auto found = events_.find(handle);
  if (found == events_.end()) return false;
  // The importers of an event that is gone must not find it.
  const std::shared_ptr<Event>& event = found->second.event;
  if (event->physical() && !event->imported()) event->physical()->label().freed = 1;
  events_.erase(found);
  counters_.Add(kEvents, -1);
  return true;
}

bool Driver::HasEvent(const Identity& identity) {
  std::lock_guard lock(mutex_);
  for (const auto& [handle, owned] : events_) {
    const Event& event = *owned.event;
    if (event.physical() && !event.imported() && event.physical()->label().identity == identity) return true;
  }
  return false;
}

CUmemGenericAllocationHandle Driver::ReferVmm(std::shared_ptr<Physical> physical) {
  std::lock_guard lock(mutex_);
  counters_.Add(kVmmHandles, 1);
  if (auto known = vmm_by_physical_.find(physical.get()); known != vmm_by_physical_.end()) {
    ++vmm_handles_[known->second].references;
    return known->second;
  }
  vmm_by_physical_[physical.get()] = ++last_vmm_handle_;
  vmm_handles_[last_vmm_handle_] = {std::move(physical)};
  return last_vmm_handle_;
}

std::shared_ptr<Physical> Driver::FindVmm(CUmemGenericAllocationHandle handle) {
  std::lock_guard lock(mutex_);
  auto found = vmm_handles_.find(handle);
  return found == vmm_handles_.end() ? nullptr : found->second.physical;
}

bool Driver::ReleaseVmm(CUmemGenericAllocationHandle handle) {
  std::shared_ptr<Physical> released;  // its memory goes outside the lock
  std::lock_guard lock(mutex_);
  auto found = vmm_handles_.find(handle);
  if (found == vmm_handles_.end()) return false;
  counters_.Add(kVmmHandles, -1);
  if (--found->second.references > 0) return true;
  released = std::move(found->second.physical);
  vmm_by_physical_.erase(released.get());
  vmm_handles_.erase(found);
  return true;
}

}  // namespace keepstep::fake_cuda
