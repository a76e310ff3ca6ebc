#include "daemon/warm_restart.h"

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "daemon/box_mover.h"
#include "daemon/record_port.h"
#include "daemon/save_request.h"
#include "reshard/dtype.h"

namespace keepstep::daemon {
namespace {

// From where it was to where it is, by its packed form.
absl::Status MoveBox(const reshard::LocalBox& was, uint64_t from_address, MemoryPort& from, const reshard::LocalBox& is,
                     uint64_t to_address, MemoryPort& to, int64_t item_bytes, Cancellation& cancel, int64_t* moved) {
  const int64_t size_bytes = reshard::NumElements(is.box) * item_bytes;
  std::vector<std::byte> packed(size_bytes);
  BoxMover out(from, Direction::kFromTrainer, cancel);
  absl::Status status = out.MoveBytes(0, size_bytes, {&was, from_address, item_bytes}, packed.data());
  if (status.ok()) status = out.Flush();
  if (!status.ok()) return status;
  BoxMover in(to, Direction::kToTrainer, cancel);
  status = in.MoveBytes(0, size_bytes, {&is, to_address, item_bytes}, packed.data());
  if (status.ok()) status = in.Flush();
  *moved += size_bytes;
  return status;
}

}  // namespace

absl::StatusOr<int64_t> FillHostMemory(const WarmRank& was, const Registration& is, MemoryPort& to,
                                       Cancellation& cancel) {
  RecordPort record(was.note);
  absl::flat_hash_map<std::string, const reshard::TensorShard*> before;
  for (const reshard::TensorShard& shard : was.registration->shards->shards) before[shard.meta.fqn] = &shard;
  int64_t moved = 0;
  for (const reshard::TensorShard& shard : is.shards->shards) {
    if (is.on_gpu[shard.buffer]) continue;
    const reshard::TensorShard& old = *before.at(shard.meta.fqn);
    for (size_t i = 0; i < shard.boxes.size(); ++i) {
      const absl::Status status =
          MoveBox(old.boxes[i], was.registration->addresses[old.buffer], record, shard.boxes[i],
                  is.addresses[shard.buffer], to, reshard::SizeBytes(shard.meta.dtype), cancel, &moved);
      if (!status.ok()) return status;
    }
  }
  return moved;
}

absl::StatusOr<std::shared_ptr<const WarmExtras>> ExtrasOf(const WarmWorld& world, const Membership& member) {
  auto extras = std::make_shared<WarmExtras>();
  extras->step = world.step;
  for (size_t rank = 0; rank < world.ranks.size(); ++rank) {
    v1::SaveRequest request;
    if (!request.ParseFromString(world.ranks[rank].note->request))
      return absl::InvalidArgumentError(absl::StrCat("The record of rank ", rank, " has no request."));
    request.set_number(1);  // a record has none
    if (absl::Status status = CheckSave(request); !status.ok()) return status;
    Membership of_rank = member;
    of_rank.rank = static_cast<int32_t>(rank);
    for (auto& extra : ArgsFrom(request, of_rank, nullptr).extras) {
      v1::Extra& out = extras->extras.emplace_back();
      out.set_name(extra.name);
      out.set_rank(of_rank.rank);
      out.set_splittable(extra.splittable);
      out.mutable_coordinate()->Add(extra.coordinate.begin(), extra.coordinate.end());
      for (std::string& item : extra.items) out.add_items(std::move(item));
    }
  }
  return std::shared_ptr<const WarmExtras>(std::move(extras));
}

}  // namespace keepstep::daemon
