#include "daemon/device/declared_memory.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

absl::Status Bad(absl::string_view reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message, "register");
}

template <size_t kBytes>
absl::Status Take(const std::string& bytes, absl::string_view what, std::array<uint8_t, kBytes>* into) {
  if (bytes.size() != kBytes)
    return Bad("BAD_HANDLE", absl::StrCat(what, " has ", kBytes, " bytes, not ", bytes.size(), "."));
  std::copy(bytes.begin(), bytes.end(), into->begin());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeclaredMemory> DeclaredMemoryFrom(const v1::DeviceMemory& memory) {
  DeclaredMemory declared{.address = memory.address(), .size_bytes = memory.size_bytes()};
  if (memory.address() == 0 || memory.size_bytes() <= 0 ||
      static_cast<uint64_t>(memory.size_bytes()) > std::numeric_limits<uint64_t>::max() - memory.address()) {
    return Bad("BUFFER_RANGE", absl::StrCat(memory.size_bytes(), " bytes at ", memory.address(), " are no memory."));
  }
  if (absl::Status status = Take(memory.gpu(), "The UUID of a GPU", &declared.gpu); !status.ok()) return status;
  switch (memory.handle_case()) {
    case v1::DeviceMemory::kIpc:
      declared.kind = HandleKind::kIpc;
      if (absl::Status status = Take(memory.ipc(), "A handle of GPU memory", &declared.ipc); !status.ok())
        return status;
      return declared;
    case v1::DeviceMemory::kDescriptorNumber:
      declared.kind = HandleKind::kDescriptor;
      declared.descriptor = memory.descriptor_number();
      return declared;
    case v1::DeviceMemory::kOwnedOrdinal:
      if (memory.owned_ordinal() == 0) return Bad("BAD_HANDLE", "Allocations of owned memory are counted from 1.");
      declared.kind = HandleKind::kDescriptor;
      declared.owned = memory.owned_ordinal();
      return declared;
    case v1::DeviceMemory::HANDLE_NOT_SET:
      break;
  }
  return Bad("BAD_HANDLE", "GPU memory comes with a handle or a descriptor.");
}

absl::StatusOr<Fence> FenceFrom(const v1::DeviceFence& from) {
  Fence fence;
  if (absl::Status status = Take(from.gpu(), "The UUID of a GPU", &fence.gpu); !status.ok()) return status;
  if (absl::Status status = Take(from.event(), "A handle of an event", &fence.event); !status.ok()) return status;
  return fence;
}

absl::StatusOr<GpuUuid> GpuFrom(const std::string& bytes) {
  GpuUuid gpu{};
  if (absl::Status status = Take(bytes, "The UUID of a GPU", &gpu); !status.ok()) return status;
  return gpu;
}

}  // namespace keepstep::daemon
