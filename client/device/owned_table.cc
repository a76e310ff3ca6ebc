#include "client/device/owned_table.h"

#include <fcntl.h>

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/failure.h"

namespace keepstep::client {

OwnedTable& OwnedTable::Get() {
  static OwnedTable& table = *new OwnedTable();
  return table;
}

// In the context, which is current.
CUresult OwnedTable::SetAccess(const Mapped& mapped, bool writable) {
  const CUmemAccessDesc access{
      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = mapped.piece.device},
      .flags = writable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ};
  return mapped.cu->cuMemSetAccess(mapped.found.address, mapped.found.size_bytes, &access, 1);
}

absl::StatusOr<CUcontext> OwnedTable::ContextOf(const cuda::Driver& cu, int device) {
  std::lock_guard lock(mu_);
  CUcontext& context = contexts_[device];
  if (context != nullptr) return context;
  if (const CUresult result = cu.cuDevicePrimaryCtxRetain(&context, device); result != CUDA_SUCCESS) {
    context = nullptr;
    return DriverError(cu, result, absl::StrCat("the context of GPU ", device));
  }
  return context;
}

absl::StatusOr<uint64_t> OwnedTable::Map(const cuda::Driver& cu, std::string gpu, const OwnedPiece& piece,
                                         UniqueFd descriptor) {
  const auto context = ContextOf(cu, piece.device);
  if (!context.ok()) return context.status();
  const InContext in(cu, *context);
  if (in.result() != CUDA_SUCCESS) return DriverError(cu, in.result(), absl::StrCat("GPU ", piece.device));
  Mapped mapped{.cu = &cu, .piece = piece};
  const auto failed = [&](CUresult result, absl::string_view call) {
    return DriverError(cu, result, absl::StrCat("mapping ", piece.size_bytes, " bytes of GPU ", piece.device,
                                                " that the daemon owns: ", call));
  };
  CUresult result = cu.cuMemImportFromShareableHandle(
      &mapped.handle, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor.get())),
      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  if (result != CUDA_SUCCESS) return failed(result, "cuMemImportFromShareableHandle");
  CUdeviceptr address = 0;
  result = cu.cuMemAddressReserve(&address, piece.size_bytes, 0, 0, 0);
  if (result != CUDA_SUCCESS) {
    (void)cu.cuMemRelease(mapped.handle);
    return failed(result, "cuMemAddressReserve");
  }
  const char* call = "cuMemMap";
  result = cu.cuMemMap(address, piece.size_bytes, 0, mapped.handle, 0);
  if (result == CUDA_SUCCESS) {
    call = "cuMemSetAccess";
    mapped.found = {.address = address, .size_bytes = piece.size_bytes};
    result = SetAccess(mapped, piece.writable);
    if (result != CUDA_SUCCESS) (void)cu.cuMemUnmap(address, piece.size_bytes);
  }
  if (result != CUDA_SUCCESS) {
    (void)cu.cuMemAddressFree(address, piece.size_bytes);
    (void)cu.cuMemRelease(mapped.handle);
    return failed(result, call);
  }
  mapped.descriptor = std::move(descriptor);
  mapped.found.path = DevicePath::kVmm;
  mapped.found.known = true;
  mapped.found.device = piece.device;
  mapped.found.context = reinterpret_cast<uint64_t>(*context);
  mapped.found.gpu = std::move(gpu);
  mapped.found.owned = piece.owned;
  std::lock_guard lock(mu_);
  mapped.found.range_id = mapped.found.block_id = ++last_id_;
  mapped_[address] = std::move(mapped);
  return address;
}

absl::StatusOr<OwnedPiece> OwnedTable::Unmap(uint64_t address) {
  std::lock_guard lock(mu_);
  const auto found = mapped_.find(address);
  if (found == mapped_.end()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                     absl::StrFormat("no memory of the daemon's begins at address 0x%x", address));
  }
  const Mapped mapped = std::move(found->second);
  mapped_.erase(found);
  const cuda::Driver& cu = *mapped.cu;
  const InContext in(cu, reinterpret_cast<CUcontext>(mapped.found.context));
  CUresult result = in.result();
  if (result == CUDA_SUCCESS) result = cu.cuCtxSynchronize();  // as cudaFree does
  if (result == CUDA_SUCCESS) result = cu.cuMemUnmap(address, mapped.found.size_bytes);
  if (result == CUDA_SUCCESS) result = cu.cuMemAddressFree(address, mapped.found.size_bytes);
  if (result == CUDA_SUCCESS) result = cu.cuMemRelease(mapped.handle);
  if (result != CUDA_SUCCESS) {
    return DriverError(cu, result, absl::StrCat("unmapping ", mapped.found.size_bytes, " bytes of GPU ",
                                                mapped.piece.device, " that the daemon owns"));
  }
  return mapped.piece;
}

absl::Status OwnedTable::MakeWritable(uint64_t client) {
  std::lock_guard lock(mu_);
  for (auto& [address, mapped] : mapped_) {
    if (mapped.piece.writable || mapped.piece.owned.client != client) continue;
    const InContext in(*mapped.cu, reinterpret_cast<CUcontext>(mapped.found.context));
    const CUresult result = in.result() == CUDA_SUCCESS ? SetAccess(mapped, true) : in.result();
    if (result != CUDA_SUCCESS) {
      return DriverError(*mapped.cu, result,
                         absl::StrCat("letting kept memory of GPU ", mapped.piece.device, " be written: cuMemSetAccess"));
    }
    mapped.piece.writable = true;
  }
  return absl::OkStatus();
}

std::optional<Allocation> OwnedTable::Find(uint64_t address) const {
  std::lock_guard lock(mu_);
  const auto next = mapped_.upper_bound(address);
  if (next == mapped_.begin()) return std::nullopt;
  const Allocation& found = std::prev(next)->second.found;
  if (address - found.address >= found.size_bytes) return std::nullopt;
  return found;
}

UniqueFd OwnedTable::Export(uint64_t address) const {
  std::lock_guard lock(mu_);
  const auto found = mapped_.find(address);
  if (found == mapped_.end()) return UniqueFd();
  return UniqueFd(fcntl(found->second.descriptor.get(), F_DUPFD_CLOEXEC, 0));
}

absl::Status MakeOwnedWritable(uint64_t client) { return OwnedTable::Get().MakeWritable(client); }

absl::StatusOr<OwnedPiece> UnmapOwned(uint64_t address) { return OwnedTable::Get().Unmap(address); }

}  // namespace keepstep::client
