#include "daemon/query_tensors.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "daemon/error.h"
#include "daemon/plan_error.h"
#include "proto/convert.h"
#include "reshard/load_plan.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

constexpr int kDefaultPage = 1000, kMaxPage = 10000;

v1::ExtentInfo ExtentOf(const StoredCheckpoint& from, const reshard::StoredBox& stored) {
  const StoredExtent& extent = from.extent(stored.extent);
  v1::ExtentInfo info;
  info.set_blob(from.blobs()[extent.blob].path.text());
  info.set_offset_bytes(extent.offset_bytes);
  info.set_size_bytes(extent.size_bytes);
  *info.mutable_box() = proto::ToProto(stored.box);
  info.set_digest(storage::DigestOf(extent.block_digests).ToBytes());
  return info;
}

absl::Status AddPlan(const StoredCheckpoint& from, const v1::QueryTensorsRequest& request,
                     v1::QueryTensorsResponse& response) {
  auto mesh = proto::MeshFrom({}, 1);
  std::vector<reshard::TensorShard> wanted;
  for (const v1::Shard& shard : request.wanted()) {
    auto one = proto::ShardFrom(shard, *mesh, 0, 1);
    if (!one.ok()) return Because(one.status(), "BAD_SHARD", "plan");
    wanted.push_back(*std::move(one));
  }
  auto plan = reshard::MakeLoadPlan(wanted, [&](absl::string_view name) { return from.Find(name); },
                                    {.stored_names = from.names()});
  if (!plan.ok()) return LoadPlanError(plan.status());
  for (const reshard::ReadItem& item : plan->items) {
    v1::PlannedRead* read = response.add_plan();
    read->set_wanted(item.shard);
    *read->mutable_region() = proto::ToProto(item.region);
    *read->mutable_from() = ExtentOf(from, {*item.stored, item.extent});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status QueryTensors(const StoredCheckpoint& from, const v1::QueryTensorsRequest& request,
                          v1::QueryTensorsResponse& response) {
  const int page = request.page_size() == 0 ? kDefaultPage : request.page_size();
  if (page < 1 || page > kMaxPage) {
    return MakeError(absl::StatusCode::kInvalidArgument, "PAGE_SIZE",
                     "page_size is 1..10000, or 0 for 1000.");
  }
  std::optional<reshard::Box> within;
  if (request.has_box()) {
    auto box = proto::BoxFrom(request.box());
    if (!box.ok()) return Because(box.status(), "BAD_BOX");
    within = *std::move(box);
  }
  const std::vector<std::string>& names = from.names();
  const std::string& start = std::max(request.prefix(), request.page_token());
  for (auto name = std::lower_bound(names.begin(), names.end(), start); name != names.end(); ++name) {
    if (!absl::StartsWith(*name, request.prefix())) break;
    if (*name == request.page_token()) continue;
    if (response.tensors_size() == page) {
      response.set_next_page_token(*std::prev(name));
      break;
    }
    const reshard::StoredTensor* stored = from.Find(*name);
    v1::TensorInfo info;
    *info.mutable_tensor()->mutable_meta() = proto::ToProto(stored->meta);
    info.mutable_tensor()->mutable_meta()->set_fqn(*name);
    for (const reshard::StoredBox& box : stored->boxes) {
      if (within.has_value() && !reshard::Intersect(*within, box.box).has_value()) continue;
      *info.add_extents() = ExtentOf(from, box);
    }
    if (within.has_value() && info.extents_size() == 0) continue;
    *response.add_tensors() = std::move(info);
  }
  return request.wanted_size() == 0 ? absl::OkStatus() : AddPlan(from, request, response);
}

}  // namespace keepstep::daemon
