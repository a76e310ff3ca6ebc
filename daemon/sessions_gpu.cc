// Sessions.Allocate and Free: GPU memory that the daemon owns (docs/gpu.md, "Warm restart").

#include "daemon/device/declared_memory.h"
#include "daemon/device/owned_memory.h"
#include "daemon/error.h"
#include "daemon/reactors.h"
#include "daemon/sessions_service.h"

namespace keepstep::daemon {

grpc::ServerUnaryReactor* SessionsService::Allocate(grpc::CallbackServerContext* context,
                                                    const v1::AllocateRequest* request,
                                                    v1::AllocateResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = RequireMember(state_, *context);
    if (!session.ok()) return session.status();
    auto gpu = GpuFrom(request->gpu());
    if (!gpu.ok()) return gpu.status();
    if (state_.owned == nullptr) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "GPU_OFF",
                       "This daemon has nothing to do with GPU memory: start it with gpu: on, or allocate with CUDA.",
                       "allocate");
    }
    const int64_t size_bytes = request->size_bytes();
    auto lent = (*session)->pieces().Allocate({*gpu, request->ordinal()}, size_bytes, [&]() -> absl::StatusOr<LentPiece> {
      auto piece = state_.owned->Allocate(*gpu, size_bytes);
      if (!piece.ok()) return piece.status();
      return LentPiece{*std::move(piece)};
    });
    if (!lent.ok()) return lent.status();
    response->set_size_bytes(lent->piece->size_bytes());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Free(grpc::CallbackServerContext* context, const v1::FreeRequest* request,
                                                v1::FreeResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request]() -> absl::Status {
    auto session = RequireMember(state_, *context);
    if (!session.ok()) return session.status();
    auto gpu = GpuFrom(request->gpu());
    if (!gpu.ok()) return gpu.status();
    return (*session)->pieces().Free({*gpu, request->ordinal()});
  });
}

}  // namespace keepstep::daemon
