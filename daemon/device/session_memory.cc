#include "daemon/device/session_memory.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxUnclaimed = 1 << 16;
constexpr auto kOnTheirWay = std::chrono::seconds(2);  // descriptors that were sent before they were named

// The node that most bytes are near.
int NodeOfMost(const std::vector<DeviceTable::Entry>& entries, const std::map<const Mapping*, int>& nodes) {
  std::map<int, int64_t> bytes_near;
  for (const DeviceTable::Entry& entry : entries) bytes_near[nodes.at(entry.mapping.get())] += entry.size_bytes;
  return std::max_element(bytes_near.begin(), bytes_near.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

}  // namespace

SessionMemory::~SessionMemory() { End(); }

absl::Status SessionMemory::Take(uint64_t first, std::vector<storage::UniqueFd> descriptors) {
  std::lock_guard lock(mutex_);
  if (hub_ == nullptr || ended_) return absl::OkStatus();  // nobody will claim them
  if (first < next_descriptor_ || first > UINT64_MAX - descriptors.size())
    return absl::InvalidArgumentError("a descriptor's number was used before");
  if (descriptors_.size() + descriptors.size() > kMaxUnclaimed)
    return absl::ResourceExhaustedError("too many descriptors that nothing registered names");
  for (storage::UniqueFd& descriptor : descriptors)
    descriptors_[first++] = std::make_shared<const storage::UniqueFd>(std::move(descriptor));
  next_descriptor_ = first;
  arrived_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<MemoryHandle> SessionMemory::HandleOf(const DeclaredMemory& one, std::unique_lock<std::mutex>& lock) {
  MemoryHandle handle{.kind = one.kind, .ipc = one.ipc, .size_bytes = one.size_bytes};
  if (one.owned != 0) {
    auto lent = pieces_->Find({one.gpu, one.owned});
    if (!lent.ok()) return lent.status();
    if (lent->piece->size_bytes() < one.size_bytes) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "BAD_HANDLE",
                       absl::StrCat("Allocation ", one.owned, " on ", GpuName(one.gpu), " has ",
                                    lent->piece->size_bytes(), " bytes, not ", one.size_bytes, "."),
                       "register");
    }
    // Mapped, it is held: its bytes count for as long.
    handle.descriptor = std::shared_ptr<const storage::UniqueFd>(lent->piece, &lent->piece->descriptor());
  } else if (one.kind == HandleKind::kDescriptor) {
    arrived_.wait_for(lock, kOnTheirWay, [&] { return ended_ || one.descriptor < next_descriptor_; });
    const auto found = descriptors_.find(one.descriptor);
    if (found == descriptors_.end()) {
      return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_DESCRIPTOR",
                       absl::StrCat("Descriptor ", one.descriptor, " did not come over the handoff socket."),
                       "register");
    }
    handle.descriptor = found->second;
  }
  return handle;
}

absl::StatusOr<std::shared_ptr<const DeviceTable>> SessionMemory::Open(const std::vector<DeclaredMemory>& declared) {
  if (declared.empty()) return std::make_shared<const DeviceTable>(std::vector<DeviceTable::Entry>());
  if (hub_ == nullptr) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "GPU_OFF",
                     "This daemon maps no GPU memory: start it with gpu: on, or let the client copy through the window.",
                     "register");
  }
  std::vector<DeviceTable::Entry> entries;
  std::map<Key, std::shared_ptr<Mapping>> fresh;
  for (const DeclaredMemory& one : declared) {
    const Key key(one.gpu, one.kind, one.ipc, one.descriptor, one.owned);
    std::unique_lock lock(mutex_);
    auto& mapping = fresh[key];
    if (const auto known = mappings_.find(key); mapping == nullptr && known != mappings_.end()) mapping = known->second;
    if (mapping == nullptr) {
      auto handle = HandleOf(one, lock);
      if (!handle.ok()) return handle.status();
      mapping = std::make_shared<Mapping>(hub_, one.gpu, *std::move(handle));
    }
    entries.push_back({one.address, one.size_bytes, mapping});
  }
  std::map<const Mapping*, int> nodes;
  for (const auto& [key, mapping] : fresh) {
    auto use = mapping->Begin();  // maps it, and so checks the handle
    if (!use.ok() && ReasonOf(use.status()) == "DEVICE_ERROR") {
      return MakeError(absl::StatusCode::kFailedPrecondition, "BAD_HANDLE",
                       absl::StrCat("The daemon cannot map GPU memory that is registered: ", use.status().message()),
                       "register");
    }
    if (!use.ok()) return use.status();
    nodes[mapping.get()] = use->worker().node();
  }
  const int node = NodeOfMost(entries, nodes);
  std::lock_guard lock(mutex_);
  if (ended_) return absl::CancelledError("the session is over");
  for (const auto& [key, mapping] : fresh) mappings_[key] = mapping;
  descriptors_.clear();  // those of a generation that was refused keep memory that the client may have freed
  return std::make_shared<const DeviceTable>(std::move(entries), node);
}

void SessionMemory::CloseAllBut(const DeviceTable* table) {
  absl::flat_hash_set<const Mapping*> kept;
  if (table != nullptr) {
    for (const DeviceTable::Entry& entry : table->entries()) kept.insert(entry.mapping.get());
  }
  std::vector<std::shared_ptr<Mapping>> old;
  {
    std::lock_guard lock(mutex_);
    for (auto it = mappings_.begin(); it != mappings_.end();) {
      if (kept.contains(it->second.get())) {
        ++it;
        continue;
      }
      old.push_back(std::move(it->second));
      it = mappings_.erase(it);
    }
  }
  for (const std::shared_ptr<Mapping>& mapping : old) mapping->Close();
}

void SessionMemory::End() {
  std::map<Key, std::shared_ptr<Mapping>> mappings;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    arrived_.notify_all();
    descriptors_.clear();
    mappings = std::exchange(mappings_, {});
  }
  if (mappings.empty()) return;
  hub_->Later([mappings = std::move(mappings)] {
    for (const auto& [key, mapping] : mappings) mapping->Close();
  });
}

}  // namespace keepstep::daemon
