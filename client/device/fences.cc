#include "client/device/fences.h"

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "proto/session_page.h"

namespace keepstep::client {
namespace {

constexpr size_t kMaxEvents = 1024;  // a program that saves from ever new streams is made to wait instead
constexpr int kMaxFences = 64;      // of SaveRequest

}  // namespace

Fences::~Fences() {
  for (auto& [place, event] : events_) {
    const InContext in(cu_, std::get<CUcontext>(place));
    if (in.result() == CUDA_SUCCESS && event.event != nullptr) (void)cu_.cuEventDestroy(event.event);
  }
}

Fences::Uses Fences::UsesOf(absl::Span<const Allocation> allocations) {
  Uses uses;
  for (const Allocation& allocation : allocations) {
    Use& use = uses[reinterpret_cast<CUcontext>(allocation.context)];
    use.gpu = allocation.gpu;
    use.mapped |= allocation.path != DevicePath::kWindow;
  }
  return uses;
}

absl::StatusOr<Fences::Marks> Fences::MarksOf(const Uses& uses, absl::Span<void* const> streams) const {
  Marks marks;
  std::set<CUcontext> named;
  for (size_t i = 0; i < streams.size(); ++i) {
    auto* const stream = static_cast<CUstream>(streams[i]);
    if (IsDefaultStream(stream)) {
      for (const auto& [context, use] : uses) marks.emplace(context, stream), named.insert(context);
      continue;
    }
    CUcontext context = nullptr;
    const CUresult result = contexts_->OfStream(stream, &context);
    if (result == CUDA_ERROR_INVALID_HANDLE || result == CUDA_ERROR_INVALID_VALUE) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                       absl::StrCat("streams[", i, "] is no CUDA stream: ", cu_.Describe(result)));
    }
    if (result != CUDA_SUCCESS) return DriverError(cu_, result, absl::StrCat("the context of streams[", i, "]"));
    if (!uses.contains(context)) continue;  // nothing registered lies there
    marks.emplace(context, stream);
    named.insert(context);
  }
  for (const auto& [context, use] : uses) {
    if (!named.contains(context)) marks.emplace(context, nullptr);
  }
  return marks;
}

absl::Status Fences::Mark(absl::Span<const Allocation> allocations, absl::Span<void* const> streams,
                          bool daemon_maps, v1::SaveRequest* request) {
  const Uses uses = UsesOf(allocations);
  const auto marks = MarksOf(uses, streams);
  if (!marks.ok()) return marks.status();
  for (const auto& [context, stream] : *marks) {
    const Use& use = uses.at(context);
    const InContext in(cu_, context);
    if (in.result() != CUDA_SUCCESS) return DriverError(cu_, in.result(), "the context of a stream");
    const auto event = Record(context, stream, request->number());
    if (!event.ok()) return event.status();
    if (use.mapped && *event != nullptr && !(*event)->handle.empty() && request->fences_size() < kMaxFences) {
      v1::DeviceFence* fence = request->add_fences();
      fence->set_gpu(use.gpu);
      fence->set_event((*event)->handle);
    } else if (*event == nullptr || (use.mapped && daemon_maps)) {
      // Without the lock: copies that the stream may stand behind must go on.
      if (const CUresult result = cu_.cuStreamSynchronize(stream); result != CUDA_SUCCESS)
        return DriverError(cu_, result, "waiting for a stream");
    }
  }
  return absl::OkStatus();
}

// Null: there are too many. Events stay where they are once made.
absl::StatusOr<const Fences::Event*> Fences::Record(CUcontext context, CUstream stream, uint64_t number) {
  std::lock_guard lock(mu_);
  const Place place(context, stream, number % proto::kSaveSlots);
  auto found = events_.find(place);
  if (found == events_.end()) {
    if (events_.size() == kMaxEvents) return nullptr;
    auto event = Make();
    if (!event.ok()) return event.status();
    found = events_.emplace(place, *std::move(event)).first;
  }
  if (const CUresult result = cu_.cuEventRecord(found->second.event, stream); result != CUDA_SUCCESS)
    return DriverError(cu_, result, "recording an event on a stream");
  return &found->second;
}

// In the current context.
absl::StatusOr<Fences::Event> Fences::Make() const {
  Event made;
  if (cu_.cuEventCreate(&made.event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS) == CUDA_SUCCESS) {
    CUipcEventHandle handle{};
    if (cu_.cuIpcGetEventHandle(&handle, made.event) == CUDA_SUCCESS)
      made.handle.assign(handle.reserved, sizeof(handle.reserved));
    return made;
  }
  if (const CUresult result = cu_.cuEventCreate(&made.event, CU_EVENT_DISABLE_TIMING); result != CUDA_SUCCESS)
    return DriverError(cu_, result, "making an event");
  return made;
}

CUresult Fences::Follow(CUcontext context, CUstream stream) {
  std::lock_guard lock(mu_);
  for (const auto& [place, event] : events_) {
    if (std::get<CUcontext>(place) != context) continue;
    if (const CUresult result = cu_.cuStreamWaitEvent(stream, event.event, 0); result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace keepstep::client
