// devices.h and driver_facts.h in a build without CUDA's headers: there is no GPU memory to find.

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "client/device/devices.h"
#include "client/device/driver_facts.h"
#include "client/failure.h"

namespace keepstep::client {

struct Devices::Rep {};

Devices::Devices() : id_(0) {}
Devices::~Devices() = default;

absl::StatusOr<std::vector<Allocation>> Devices::Find(absl::Span<const DeviceRange> ranges) {
  if (ranges.empty()) return std::vector<Allocation>();
  return MakeError(
      absl::StatusCode::kInvalidArgument, "BAD_SHARD",
      absl::StrCat(ranges.front().fqn,
                   ": is said to lie in GPU memory (KS_CUDA), but this libkeepstep was built without "
                   "CUDA's headers and moves host memory alone"),
      "register");
}

absl::StatusOr<std::vector<UniqueFd>> Devices::Export(absl::Span<const Allocation* const>) {
  return absl::UnimplementedError("a build without CUDA");
}

absl::StatusOr<std::string> Devices::GpuOf(int) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                   "there is no GPU: this libkeepstep was built without CUDA's headers");
}

absl::StatusOr<uint64_t> Devices::MapOwned(const OwnedPiece&, UniqueFd) {
  return absl::UnimplementedError("a build without CUDA");
}

absl::Status MakeOwnedWritable(uint64_t) { return absl::OkStatus(); }

absl::StatusOr<OwnedPiece> UnmapOwned(uint64_t) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", "no memory of the daemon's begins there");
}

absl::Status Devices::Mark(absl::Span<const Allocation>, absl::Span<void* const>, bool, v1::SaveRequest*) {
  return absl::OkStatus();
}

absl::StatusOr<bool> Devices::FollowGate(void*, uint32_t, uint64_t) { return false; }

void Devices::RaiseGate(uint32_t, uint64_t) {}

absl::Status Devices::WriteFlightWord(void*, int, proto::FlightWords*, size_t, uint32_t) {
  return absl::UnimplementedError("a build without CUDA");
}

void Devices::UnpinFlightWords() {}

absl::Status Devices::Synchronize(absl::Span<const Allocation>) { return absl::OkStatus(); }

int Devices::Copy(absl::Span<const proto::CopyEntry>, absl::Span<const Allocation>, bool, std::byte*,
                  size_t) {
  return EFAULT;
}

absl::Status Devices::ReadSamples(absl::Span<const DeviceSample>, absl::Span<const Allocation>, bool, std::byte*) {
  return absl::OkStatus();
}

void Devices::ForgetWindow() {}

DriverFacts LookAtDriver() {
  return {.works = true, .text = "built without CUDA's headers: host memory alone"};
}

}  // namespace keepstep::client
