#include "client/device/gate_words.h"

#include <utility>
#include <vector>

namespace keepstep::client {

GateWords::~GateWords() {
  std::lock_guard lock(mu_);
  if (waited_for_) {
    static std::mutex& keeping = *new std::mutex;
    static auto& kept = *new std::vector<std::unique_ptr<Words>>;
    std::lock_guard keep(keeping);
    kept.push_back(std::move(words_));
    return;
  }
  if (!pinned_ || addresses_.empty()) return;
  const InContext in(cu_, addresses_.begin()->first);
  if (in.result() == CUDA_SUCCESS) (void)cu_.cuMemHostUnregister(words_.get());
}

absl::StatusOr<CUdeviceptr> GateWords::WordsIn(CUcontext context) {
  std::lock_guard lock(mu_);
  if (refused_) return CUdeviceptr{0};
  const auto known = addresses_.find(context);
  if (known != addresses_.end()) return known->second;
  if (!pinned_) {
    const CUresult result = cu_.cuMemHostRegister(words_.get(), sizeof(Words),
                                                  CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    refused_ = result != CUDA_SUCCESS;
    if (refused_) return CUdeviceptr{0};
    pinned_ = true;
  }
  CUdeviceptr address = 0;
  if (const CUresult result = cu_.cuMemHostGetDevicePointer(&address, words_.get(), 0); result != CUDA_SUCCESS)
    return DriverError(cu_, result, "the gate's words");
  return addresses_[context] = address;
}

absl::StatusOr<bool> GateWords::Follow(CUstream stream, uint32_t group, uint64_t number) {
  CUcontext context = nullptr;
  CUresult result =
      IsDefaultStream(stream) ? cu_.cuCtxGetCurrent(&context) : contexts_->OfStream(stream, &context);
  if (result != CUDA_SUCCESS) return DriverError(cu_, result, "the stream's context");
  if (context == nullptr) return false;  // a default stream of no context
  const InContext in(cu_, context);
  if (in.result() != CUDA_SUCCESS) return DriverError(cu_, in.result(), "the stream's context");
  const auto words = WordsIn(context);
  if (!words.ok()) return words.status();
  if (*words == 0) return false;
  result = cu_.cuStreamWaitValue32(stream, *words + group * sizeof(uint32_t), static_cast<uint32_t>(number),
                                   CU_STREAM_WAIT_VALUE_GEQ);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return false;
  if (result != CUDA_SUCCESS) return DriverError(cu_, result, "waiting for the gate in stream order");
  std::lock_guard lock(mu_);
  waited_for_ = true;
  return true;
}

void GateWords::Raise(uint32_t group, uint64_t number) {
  const auto word = static_cast<uint32_t>(number);
  std::atomic<uint32_t>& held = words_->of_group[group];
  uint32_t before = held.load();
  while (static_cast<int32_t>(word - before) > 0 && !held.compare_exchange_weak(before, word)) {
  }
}

}  // namespace keepstep::client
