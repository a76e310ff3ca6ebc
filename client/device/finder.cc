#include "client/device/finder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/device/owned_table.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

absl::Status Bad(const DeviceRange& range, absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_SHARD", absl::StrCat(range.fqn, ": ", what),
                   "register");
}

std::string At(uint64_t address) { return absl::StrFormat("address 0x%x", address); }

}  // namespace

absl::StatusOr<std::vector<Allocation>> Finder::Find(absl::Span<const DeviceRange> ranges) {
  std::vector<const DeviceRange*> sorted;
  for (const DeviceRange& range : ranges) {
    if (range.size_bytes > 0) sorted.push_back(&range);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->address < b->address; });
  auto any = contexts_->Any();
  if (!any.ok()) return any.status();
  const InContext in(cu_, *any);
  std::map<uint64_t, Allocation> now;
  uint64_t reach = 0;  // every address of a range that lies below is in `now`, or was in none
  for (const DeviceRange* range : sorted) {
    if (range->size_bytes > UINT64_MAX - range->address) return Bad(*range, "ends beyond all memory");
    const uint64_t end = range->address + range->size_bytes;
    for (uint64_t at = std::max(range->address, reach); at < end; at = reach) {
      auto allocation = Ask(at, *range);
      if (!allocation.ok()) return allocation.status();
      reach = allocation->address + allocation->size_bytes;
      const uint64_t address = allocation->address;
      now.insert_or_assign(address, *std::move(allocation));
    }
  }
  found_ = std::move(now);
  std::vector<Allocation> all;
  all.reserve(found_.size());
  for (const auto& [address, allocation] : found_) all.push_back(allocation);
  return all;
}

absl::StatusOr<Allocation> Finder::Ask(uint64_t address, const DeviceRange& range) {
  if (std::optional<Allocation> owned = OwnedTable::Get().Find(address); owned.has_value()) return *std::move(owned);
  unsigned int type = 0;
  if (const CUresult result = cu_.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
      result != CUDA_SUCCESS) {
    return Bad(range, absl::StrCat(At(address), " is not GPU memory: ", cu_.Describe(result),
                                   "; KS_CUDA is for memory that CUDA allocated"));
  }
  unsigned int managed = 0;
  (void)cu_.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address);
  if (type == CU_MEMORYTYPE_HOST && managed == 0)
    return Bad(range, absl::StrCat(At(address), " is pinned host memory: register it as KS_HOST"));
  int device = 0;
  if (const CUresult result =
          cu_.cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address);
      result != CUDA_SUCCESS) {
    return Bad(range, absl::StrCat("which GPU ", At(address), " is on: ", cu_.Describe(result)));
  }
  CUcontext context = nullptr;  // none for cuMemCreate's memory, which belongs to a GPU
  if (cu_.cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address) != CUDA_SUCCESS ||
      context == nullptr) {
    auto found = contexts_->For(device);
    if (!found.ok()) return found.status();
    context = *found;
  }
  contexts_->Keep(device);
  auto uuid = contexts_->Uuid(device);
  if (!uuid.ok()) return uuid.status();
  const InContext in(cu_, context);
  if (in.result() != CUDA_SUCCESS) return DriverError(cu_, in.result(), absl::StrCat("GPU ", device));
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  const CUresult result = cu_.cuMemGetAddressRange(&base, &size_bytes, address);
  if (result != CUDA_SUCCESS || address < base || address - base >= size_bytes) {
    return Bad(range,
               absl::StrCat("the allocation of ", At(address), " on GPU ", device, ": ",
                            result == CUDA_SUCCESS ? "the driver names another" : cu_.Describe(result)));
  }
  Allocation allocation{.address = base, .size_bytes = size_bytes, .device = device};
  allocation.context = reinterpret_cast<uint64_t>(context);
  allocation.gpu = *std::move(uuid);
  const bool has_block = Number(&allocation);
  if (const auto before = found_.find(base); before != found_.end() && before->second.known) {
    const Allocation& old = before->second;
    if (old.Key() == allocation.Key() && old.context == allocation.context) return old;
  }
  if (absl::Status status = ChoosePath(&allocation, range); !status.ok()) return status;
  // The addresses of a legacy allocation lead to one memory as long as there are.
  allocation.known = allocation.range_id != 0 && (has_block || allocation.path == DevicePath::kIpc);
  return allocation;
}

// Whether the driver tells the number of the memory behind the addresses: older ones do not.
bool Finder::Number(Allocation* allocation) const {
  unsigned long long range = 0, block = 0;
  (void)cu_.cuPointerGetAttribute(&range, CU_POINTER_ATTRIBUTE_BUFFER_ID, allocation->address);
  const CUresult has_block =
      cu_.cuPointerGetAttribute(&block, CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, allocation->address);
  allocation->range_id = range;
  allocation->block_id = has_block == CUDA_SUCCESS ? block : 0;
  return has_block == CUDA_SUCCESS;
}

absl::Status Finder::ChoosePath(Allocation* allocation, const DeviceRange& range) const {
  CUipcMemHandle handle{};
  if (cu_.cuIpcGetMemHandle(&handle, allocation->address) == CUDA_SUCCESS) {
    allocation->path = DevicePath::kIpc;
    allocation->ipc.assign(handle.reserved, sizeof(handle.reserved));
    return absl::OkStatus();
  }
  CUmemGenericAllocationHandle piece = 0;
  if (cu_.cuMemRetainAllocationHandle(&piece, reinterpret_cast<void*>(allocation->address)) != CUDA_SUCCESS)
    return absl::OkStatus();
  CUmemAllocationProp properties{};
  const CUresult result = cu_.cuMemGetAllocationPropertiesFromHandle(&properties, piece);
  (void)cu_.cuMemRelease(piece);  // held on to, it would outlive what the trainer frees
  if (result != CUDA_SUCCESS) {
    return DriverError(cu_, result,
                       absl::StrCat(range.fqn, ": what GPU ", allocation->device, " says of its memory"));
  }
  if ((properties.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    allocation->path = DevicePath::kVmm;
  return absl::OkStatus();
}

}  // namespace keepstep::client
