#include "client/device/flight_words.h"

#include "absl/strings/str_cat.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

absl::Status NoWrites(absl::string_view why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_STREAM_WRITES", why, "rescue");
}

}  // namespace

absl::Status FlightWordsWriter::Pin(proto::FlightWords* page) {
  if (pinned_ != nullptr) return absl::OkStatus();
  const CUresult result =
      cu_.cuMemHostRegister(page, proto::kPageBytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
  if (result != CUDA_SUCCESS)
    return NoWrites(absl::StrCat("the driver does not pin the flight record: ", cu_.Describe(result)));
  pinned_ = page;
  return absl::OkStatus();
}

absl::StatusOr<CUdeviceptr> FlightWordsWriter::AddressIn(CUcontext context, proto::FlightWords* page) {
  std::lock_guard lock(mu_);
  const auto known = addresses_.find(context);
  if (known != addresses_.end()) return known->second;
  if (absl::Status status = Pin(page); !status.ok()) return status;
  CUdeviceptr address = 0;
  if (const CUresult result = cu_.cuMemHostGetDevicePointer(&address, page, 0); result != CUDA_SUCCESS)
    return DriverError(cu_, result, "the flight record's words");
  return addresses_[context] = address;
}

absl::Status FlightWordsWriter::Write(CUstream stream, int device, proto::FlightWords* page, size_t offset_bytes,
                                      uint32_t value) {
  CUcontext context = nullptr;
  CUresult result =
      IsDefaultStream(stream) ? cu_.cuCtxGetCurrent(&context) : contexts_->OfStream(stream, &context);
  if (result != CUDA_SUCCESS) return DriverError(cu_, result, "the stream's context");
  if (context == nullptr) return NoWrites("a default stream was named where no context is current");
  const auto of = contexts_->DeviceOf(context);
  if (!of.ok()) return of.status();
  if (*of != device) {
    return NoWrites(absl::StrCat("memory of GPU ", device, " is updated on a stream of GPU ", *of));
  }
  const InContext in(cu_, context);
  if (in.result() != CUDA_SUCCESS) return DriverError(cu_, in.result(), "the stream's context");
  const auto address = AddressIn(context, page);
  if (!address.ok()) return address.status();
  // With its barrier: what the update wrote is there before the word says so.
  result = cu_.cuStreamWriteValue32(stream, *address + offset_bytes, value, CU_STREAM_WRITE_VALUE_DEFAULT);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return NoWrites("the driver writes no words in stream order");
  return result == CUDA_SUCCESS ? absl::OkStatus() : DriverError(cu_, result, "writing the update sequence");
}

void FlightWordsWriter::Unpin() {
  std::lock_guard lock(mu_);
  if (pinned_ == nullptr || addresses_.empty()) return;
  const InContext in(cu_, addresses_.begin()->first);
  if (in.result() == CUDA_SUCCESS) (void)cu_.cuMemHostUnregister(pinned_);
  pinned_ = nullptr;
  addresses_.clear();
}

}  // namespace keepstep::client
