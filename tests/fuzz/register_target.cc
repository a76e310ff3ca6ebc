// What trainers register, from the message to the plan: Sessions.Register, the save plan of all ranks, the
// load plan of the same layout.
//
// A registration that is taken lies inside its tensors and its buffers; a plan that is made writes every
// element of every tensor once, and loads back into the very shards that it came from.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/registration.h"
#include "proto/convert.h"
#include "reshard/check.h"
#include "reshard/coverage.h"
#include "reshard/load_plan.h"
#include "reshard/save_plan.h"
#include "reshard/strided.h"
#include "tests/fuzz/cases.pb.h"
#include "tests/fuzz/proto_mutator.h"

namespace keepstep::fuzz {
namespace {

using daemon::Registration;
using reshard::LocalBox;
using reshard::RankShards;
using reshard::TensorShard;

constexpr int kMostRanks = 8;
constexpr size_t kMostItems = 4096;

int64_t BytesOf(const reshard::Box& box, const TensorShard& shard) {
  return reshard::NumElements(box) * reshard::SizeBytes(shard.meta.dtype);
}

void CheckRegistration(const Registration& registration, uint64_t last_generation) {
  KEEPSTEP_CHECK(registration.generation > last_generation, "a generation that goes back");
  __int128 total_bytes = 0;
  for (const TensorShard& shard : registration.shards->shards) {
    KEEPSTEP_CHECK(shard.buffer < registration.addresses.size(), "a buffer that is not there");
    KEEPSTEP_CHECK(reshard::ValidateShard(shard, registration.sizes_bytes[shard.buffer]).ok(),
                   "a shard that leaves its tensor or its buffer");
    for (const LocalBox& local : shard.boxes) total_bytes += BytesOf(local.box, shard);
  }
  KEEPSTEP_CHECK(total_bytes == registration.total_bytes, "another total than that of the boxes");
}

std::shared_ptr<const Registration> Register(const RegisterCase::Rank& rank, const reshard::Mesh& mesh,
                                             int32_t world_size) {
  daemon::RegistrationBuilder builder(
      mesh, rank.rank(), world_size,
      std::make_shared<daemon::RegistrationBudget>(daemon::kRegistrationBytes));
  std::shared_ptr<const Registration> current;
  for (const v1::RegisterRequest& message : rank.messages()) {
    const auto next = builder.Add(message, current);
    if (!next.ok()) {
      const absl::StatusCode code = next.status().code();
      KEEPSTEP_CHECK(code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kOutOfRange ||
                         code == absl::StatusCode::kNotFound || code == absl::StatusCode::kResourceExhausted,
                     "a refusal with a code that Register does not have");
      continue;
    }
    if (*next == nullptr) continue;
    CheckRegistration(**next, current == nullptr ? 0 : current->generation);
    current = *next;
  }
  return current;
}

// Every extent of the plan by its number, and the stored tensors that they make, aliases included.
std::map<std::string, reshard::StoredTensor> Stored(const reshard::SavePlan& plan,
                                                    const std::vector<RankShards>& ranks, size_t& extents) {
  std::map<int32_t, const RankShards*> by_rank;
  for (const RankShards& rank : ranks) by_rank[rank.rank] = &rank;
  std::map<std::string, reshard::StoredTensor> stored;
  for (const reshard::BlobPlan& blob : plan.blobs) {
    int64_t blob_bytes = 0;
    for (const reshard::WriteItem& item : blob.items) {
      const std::vector<TensorShard>& shards = by_rank.at(item.rank)->shards;
      const reshard::Box& box = shards[item.shard].boxes[item.box].box;
      KEEPSTEP_CHECK(item.size_bytes == BytesOf(box, shards[item.shard]),
                     "an item of another size than its box");
      blob_bytes += item.size_bytes;
      std::vector<uint32_t> names = item.alias_shards;
      names.push_back(item.shard);
      for (const uint32_t shard : names) {
        KEEPSTEP_CHECK(shards[shard].boxes[item.box].box == box, "an alias with another box");
        reshard::StoredTensor& tensor = stored[shards[shard].meta.fqn];
        tensor.meta = shards[shard].meta;
        tensor.boxes.push_back({box, static_cast<uint32_t>(extents)});
      }
      ++extents;
    }
    KEEPSTEP_CHECK(blob_bytes == blob.size_bytes, "a blob of another size than its items");
  }
  for (const auto& [name, tensor] : stored) {
    std::vector<reshard::Box> boxes;
    for (const reshard::StoredBox& box : tensor.boxes) boxes.push_back(box.box);
    KEEPSTEP_CHECK(reshard::CheckCoverage(tensor.meta.shape, boxes).ok(),
                   "elements written twice or not at all");
  }
  return stored;
}

// The first and the last byte that the nest touches at its destination, against the buffer.
void CheckNest(const reshard::RunNest& nest, int64_t size_bytes, int64_t buffer_bytes) {
  __int128 bytes = nest.run_bytes, low = nest.dst_offset_bytes, high = low + nest.run_bytes;
  for (const auto& loop : nest.loops) {
    bytes *= loop.extent;
    const __int128 reach = static_cast<__int128>(loop.extent - 1) * loop.dst_stride_bytes;
    (reach < 0 ? low : high) += reach;
  }
  KEEPSTEP_CHECK(bytes == size_bytes, "runs that are not the region");
  KEEPSTEP_CHECK(bytes == 0 || (low >= 0 && high <= buffer_bytes), "runs that leave the buffer");
}

void CheckLoad(const RankShards& wanted, const Registration& registration,
               const std::map<std::string, reshard::StoredTensor>& stored) {
  const auto find = [&](absl::string_view name) -> const reshard::StoredTensor* {
    const auto found = stored.find(std::string(name));
    return found == stored.end() ? nullptr : &found->second;
  };
  const auto plan = reshard::MakeLoadPlan(wanted.shards, find);
  KEEPSTEP_CHECK(plan.ok(), "a layout that was planned cannot be loaded by itself");
  std::map<std::pair<uint32_t, uint32_t>, int64_t> filled;
  for (const reshard::ReadItem& item : plan->items) {
    const TensorShard& shard = wanted.shards[item.shard];
    const LocalBox& local = shard.boxes[item.box];
    KEEPSTEP_CHECK(reshard::Contains(*item.stored, item.region) && reshard::Contains(local.box, item.region),
                   "a region outside what is stored or wanted");
    filled[{item.shard, item.box}] += reshard::NumElements(item.region);
    const int64_t item_bytes = reshard::SizeBytes(shard.meta.dtype);
    CheckNest(reshard::MakeRunNest(item.region, reshard::RowMajorLayout(*item.stored, item_bytes), local,
                                   item_bytes),
              BytesOf(item.region, shard), registration.sizes_bytes[shard.buffer]);
  }
  for (const auto& [place, elements] : filled) {
    KEEPSTEP_CHECK(elements == reshard::NumElements(wanted.shards[place.first].boxes[place.second].box),
                   "a box that is not filled");
  }
}

void CheckPlans(const std::vector<RankShards>& ranks,
                const std::vector<std::shared_ptr<const Registration>>& registrations) {
  const auto plan = reshard::MakeSavePlan(ranks);
  const std::vector<RankShards> reversed(ranks.rbegin(), ranks.rend());
  const auto other = reshard::MakeSavePlan(reversed);
  KEEPSTEP_CHECK(plan.status().code() == other.status().code(), "the order of ranks decides");
  if (!plan.ok()) {
    KEEPSTEP_CHECK(absl::IsInvalidArgument(plan.status()) || absl::IsFailedPrecondition(plan.status()),
                   "a refusal with a code that MakeSavePlan does not have");
    return;
  }
  KEEPSTEP_CHECK(plan->fingerprint == other->fingerprint, "the order of ranks changes the layout");
  size_t extents = 0;
  const auto stored = Stored(*plan, ranks, extents);
  if (extents > kMostItems) return;
  for (size_t i = 0; i < ranks.size(); ++i) CheckLoad(ranks[i], *registrations[i], stored);
}

void TestRegister(const RegisterCase& value) {
  const auto mesh = proto::MeshFrom(value.mesh(), value.world_size());
  if (!mesh.ok()) return;
  std::vector<RankShards> ranks;
  std::vector<std::shared_ptr<const Registration>> registrations;
  for (const RegisterCase::Rank& rank : value.ranks()) {
    if (rank.rank() < 0 || rank.rank() >= value.world_size() || ranks.size() == kMostRanks) continue;
    const auto registration = Register(rank, *mesh, value.world_size());
    if (registration == nullptr) continue;
    ranks.push_back(*registration->shards);
    registrations.push_back(registration);
  }
  if (!ranks.empty()) CheckPlans(ranks, registrations);
}

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::RegisterCase, keepstep::fuzz::TestRegister)
