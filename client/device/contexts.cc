#include "client/device/contexts.h"

#include "absl/strings/str_cat.h"
#include "client/failure.h"

namespace keepstep::client {

absl::Status DriverError(const cuda::Driver& cu, CUresult result, absl::string_view doing) {
  return MakeError(absl::StatusCode::kAborted, "DEVICE_ERROR", absl::StrCat(doing, ": ", cu.Describe(result)),
                   "device");
}

CUresult Drain(const cuda::Driver& cu, CUcontext context, CUstream stream, bool* drained) {
  const auto wait = [&] {
    const InContext in(cu, context);
    return in.result() == CUDA_SUCCESS ? cu.cuStreamSynchronize(stream) : in.result();
  };
  const CUresult first = wait();
  *drained = first == CUDA_SUCCESS || wait() == CUDA_SUCCESS;
  return first;
}

Contexts::~Contexts() {
  for (const auto& [device, context] : held_) (void)cu_.cuDevicePrimaryCtxRelease(device);
}

absl::StatusOr<CUcontext> Contexts::For(int device) {
  CUcontext current = nullptr;
  if (cu_.cuCtxGetCurrent(&current) == CUDA_SUCCESS && current != nullptr) {
    CUdevice of = -1;
    if (cu_.cuCtxGetDevice(&of) == CUDA_SUCCESS && of == device) return current;
  }
  return Hold(device);
}

absl::StatusOr<CUcontext> Contexts::Hold(int device) {
  std::lock_guard lock(mu_);
  if (auto held = held_.find(device); held != held_.end()) return held->second;
  CUcontext context = nullptr;
  if (const CUresult result = cu_.cuDevicePrimaryCtxRetain(&context, device); result != CUDA_SUCCESS)
    return DriverError(cu_, result, absl::StrCat("the context of GPU ", device));
  held_[device] = context;
  return context;
}

bool Contexts::InUse(int device) const {
  unsigned int flags = 0;
  int active = 0;
  return cu_.cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

void Contexts::Keep(int device) {
  if (InUse(device)) (void)Hold(device);
}

absl::StatusOr<CUcontext> Contexts::Any() {
  CUcontext current = nullptr;
  if (cu_.cuCtxGetCurrent(&current) == CUDA_SUCCESS && current != nullptr) return current;
  int count = 0;
  (void)cu_.cuDeviceGetCount(&count);
  for (int device = 0; device < count; ++device) {
    if (InUse(device)) return Hold(device);
  }
  return Hold(0);
}

absl::StatusOr<std::string> Contexts::Uuid(int device) {
  std::lock_guard lock(mu_);
  if (auto known = uuids_.find(device); known != uuids_.end()) return known->second;
  CUuuid uuid{};
  if (const CUresult result = cu_.cuDeviceGetUuid(&uuid, device); result != CUDA_SUCCESS)
    return DriverError(cu_, result, absl::StrCat("the UUID of GPU ", device));
  return uuids_[device] = std::string(uuid.bytes, sizeof(uuid.bytes));
}

CUresult Contexts::OfStream(CUstream stream, CUcontext* context) {
  const auto any = Any();  // without one the driver answers nothing
  if (!any.ok()) return CUDA_ERROR_INVALID_CONTEXT;
  const InContext in(cu_, *any);
  return in.result() == CUDA_SUCCESS ? cu_.cuStreamGetCtx(stream, context) : in.result();
}

absl::StatusOr<int> Contexts::DeviceOf(CUcontext context) const {
  const InContext in(cu_, context);
  CUdevice device = -1;
  CUresult result = in.result();
  if (result == CUDA_SUCCESS) result = cu_.cuCtxGetDevice(&device);
  if (result != CUDA_SUCCESS) return DriverError(cu_, result, "the GPU of a context");
  return device;
}

}  // namespace keepstep::client
