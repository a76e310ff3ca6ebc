#include "daemon/same_place.h"

#include <algorithm>
#include <iterator>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

bool SameBoxes(const reshard::TensorShard& was, const reshard::TensorShard& is) {
  return std::equal(was.boxes.begin(), was.boxes.end(), is.boxes.begin(), is.boxes.end(),
                    [](const reshard::LocalBox& a, const reshard::LocalBox& b) {
                      return a.box == b.box && a.offset_bytes == b.offset_bytes && a.strides_bytes == b.strides_bytes;
                    });
}

bool SameTensor(const reshard::TensorShard& was, const reshard::TensorShard& is) {
  return was.meta.dtype == is.meta.dtype && was.meta.shape == is.meta.shape &&
         was.meta.component == is.meta.component && was.group == is.group && was.module_buffer == is.module_buffer &&
         was.replica_ranks == is.replica_ranks && SameBoxes(was, is);
}

}  // namespace

std::optional<PlaceInPiece> PlaceOf(const Registration& registration, uint32_t buffer) {
  const uint64_t address = registration.addresses[buffer];
  const auto size_bytes = static_cast<uint64_t>(registration.sizes_bytes[buffer]);
  const std::vector<DeclaredMemory>& all = registration.gpu_memory;
  const auto after = std::upper_bound(all.begin(), all.end(), address,
                                      [](uint64_t at, const DeclaredMemory& each) { return at < each.address; });
  if (!registration.on_gpu[buffer] || size_bytes == 0 || after == all.begin()) return std::nullopt;
  const DeclaredMemory& memory = *std::prev(after);
  const uint64_t offset_bytes = address - memory.address;
  const auto memory_bytes = static_cast<uint64_t>(memory.size_bytes);
  if (memory.owned == 0 || offset_bytes > memory_bytes || size_bytes > memory_bytes - offset_bytes) return std::nullopt;
  return PlaceInPiece{{memory.gpu, memory.owned}, offset_bytes};
}

std::string WhyNotInPlace(const Registration& was, const Registration& is) {
  absl::flat_hash_map<std::string, const reshard::TensorShard*> before;
  for (const reshard::TensorShard& shard : was.shards->shards) before[shard.meta.fqn] = &shard;
  for (const reshard::TensorShard& shard : is.shards->shards) {
    const std::string& name = shard.meta.fqn;
    const auto found = before.find(name);
    if (found == before.end()) return absl::StrCat("has a tensor '", name, "' that it did not have");
    const reshard::TensorShard& old = *found->second;
    before.erase(found);
    if (!SameTensor(old, shard)) return absl::StrCat("has a tensor '", name, "' of another kind, shape or layout");
    const bool on_gpu = is.on_gpu[shard.buffer];
    if (on_gpu != was.on_gpu[old.buffer]) return absl::StrCat("has '", name, "' in another kind of memory");
    if (is.sizes_bytes[shard.buffer] != was.sizes_bytes[old.buffer])
      return absl::StrCat("has '", name, "' in a buffer of another size");
    if (!on_gpu || is.sizes_bytes[shard.buffer] == 0) continue;
    const auto place = PlaceOf(is, shard.buffer), old_place = PlaceOf(was, old.buffer);
    if (!place.has_value() || !old_place.has_value())
      return absl::StrCat("has '", name, "' in GPU memory that the daemon does not own");
    if (*place != *old_place) return absl::StrCat("has '", name, "' at another place");
  }
  if (!before.empty()) return absl::StrCat("has no tensor '", before.begin()->first, "' any more");
  return "";
}

}  // namespace keepstep::daemon
