#include "client/device_paths.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace keepstep::client {
namespace {

// The allocations from the one at `address` on that a buffer lies in: [begin, end) of `all`.
std::pair<size_t, size_t> Under(const std::vector<Allocation>& all, const v1::DeviceBuffer& buffer) {
  const uint64_t address = buffer.address(), end = address + static_cast<uint64_t>(buffer.size_bytes());
  const Allocation* const first = AllocationAt(all, address);
  if (first == nullptr) return {0, 0};  // an empty buffer
  size_t last = first - all.data();
  const size_t begin = last;
  while (last < all.size() && all[last].address < end) ++last;
  return {begin, last};
}

// Whether the daemon lent this client the piece: then it has the descriptor.
bool Owns(const HandoffClient& daemon, const Devices& client, const Allocation& piece) {
  return piece.owned.ordinal != 0 && piece.owned.client == client.id() &&
         piece.owned.daemon_pid == daemon.daemon_pid();
}

void AddCount(size_t count, const char* path, std::string* text) {
  if (count == 0) return;
  absl::StrAppend(text, text->empty() ? "" : ", ", count,
                  text->empty() ? (count == 1 ? " allocation" : " allocations") : "", " by ", path);
}

}  // namespace

DevicePaths ChoosePaths(const Declared& declared, bool daemon_maps) {
  DevicePaths paths;
  if (declared.allocations.empty()) return paths;
  const std::vector<Allocation>& all = declared.allocations;
  paths.by_window.resize(declared.buffers.size());
  std::vector<bool> mapped(all.size());
  for (size_t i = 0; i < declared.buffers.size(); ++i) {
    const v1::Buffer& buffer = declared.buffers[i];
    if (!buffer.has_device()) continue;
    const auto [begin, end] = Under(all, buffer.device());
    bool has_handles = daemon_maps;
    for (size_t j = begin; j < end; ++j) has_handles &= all[j].path != DevicePath::kWindow;
    paths.by_window[i] = !has_handles;
    for (size_t j = begin; has_handles && j < end; ++j) mapped[j] = true;
  }
  for (size_t j = 0; j < all.size(); ++j) {
    if (mapped[j]) paths.mapped.push_back(&all[j]);
  }
  paths.window_allocations = all.size() - paths.mapped.size();
  return paths;
}

bool DevicePaths::NeedWindow() const {
  return std::find(by_window.begin(), by_window.end(), true) != by_window.end();
}

std::shared_ptr<const DeviceSamplePlan> DevicePaths::SamplesByWindow(const DeviceSamplePlan& samples) const {
  auto plan = std::make_shared<DeviceSamplePlan>();
  for (const auto& [group, of_group] : samples) {
    for (const DeviceSample& sample : of_group) {
      if (sample.buffer < by_window.size() && by_window[sample.buffer]) (*plan)[group].push_back(sample);
    }
  }
  if (plan->empty()) return nullptr;
  LimitPlan(plan.get());
  return plan;
}

std::string DevicePaths::Text() const {
  const size_t ipc = std::count_if(mapped.begin(), mapped.end(),
                                   [](const Allocation* each) { return each->path == DevicePath::kIpc; });
  std::string text;
  AddCount(ipc, PathName(DevicePath::kIpc), &text);
  AddCount(mapped.size() - ipc, PathName(DevicePath::kVmm), &text);
  AddCount(window_allocations, PathName(DevicePath::kWindow), &text);
  return text;
}

absl::StatusOr<std::vector<v1::DeviceMemory>> DescriptorBook::Offer(
    const DevicePaths& paths, const std::shared_ptr<HandoffClient>& handoff, Devices* devices,
    Deadline deadline) {
  if (to_ != handoff) {
    to_ = handoff;
    given_.clear();
  }
  offered_.clear();
  std::vector<const Allocation*> missing;
  for (const Allocation* piece : paths.mapped) {
    if (piece->path != DevicePath::kVmm || Owns(*handoff, *devices, *piece)) continue;
    const auto given = piece->known ? given_.find(piece->Key()) : given_.end();
    if (given == given_.end()) {
      missing.push_back(piece);
    } else {
      offered_.insert(*given);
    }
  }
  if (absl::Status status = Send(missing, handoff.get(), devices, deadline); !status.ok()) return status;
  std::vector<v1::DeviceMemory> memory;
  memory.reserve(paths.mapped.size());
  for (const Allocation* piece : paths.mapped) {
    v1::DeviceMemory& told = memory.emplace_back();
    told.set_address(piece->address);
    told.set_size_bytes(static_cast<int64_t>(piece->size_bytes));
    told.set_gpu(piece->gpu);
    if (piece->path == DevicePath::kIpc) {
      told.set_ipc(piece->ipc);
    } else if (Owns(*handoff, *devices, *piece)) {
      told.set_owned_ordinal(piece->owned.ordinal);
    } else {
      told.set_descriptor_number(offered_.at(piece->Key()));
    }
  }
  return memory;
}

absl::Status DescriptorBook::Send(const std::vector<const Allocation*>& pieces, HandoffClient* handoff,
                                  Devices* devices, Deadline deadline) {
  const absl::Span<const Allocation* const> all(pieces);
  for (size_t begin = 0; begin < all.size(); begin += proto::kMaxDescriptors) {
    const auto frame = all.subspan(begin, proto::kMaxDescriptors);
    auto fds = devices->Export(frame);
    if (!fds.ok()) return fds.status();
    const uint64_t first = next_;
    next_ += frame.size();
    if (absl::Status status = handoff->SendDescriptors(first, *fds, deadline); !status.ok()) return status;
    for (size_t i = 0; i < frame.size(); ++i) offered_[frame[i]->Key()] = first + i;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::client
