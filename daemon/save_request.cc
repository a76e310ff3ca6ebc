#include "daemon/save_request.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "daemon/error.h"
#include "proto/convert.h"
#include "reshard/tensor.h"
#include "storage/attempt.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kMaxExtraBytes = 1 << 20;
constexpr int kMaxExtras = 1024;
constexpr int kMaxFences = 64;

absl::Status Invalid(absl::string_view reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

std::vector<int64_t> CoordinateOf(const reshard::Mesh& mesh, int32_t rank) {
  std::vector<int64_t> coordinate(mesh.sizes.size());
  int64_t rest = rank;
  for (size_t i = mesh.sizes.size(); i-- > 0;) {
    coordinate[i] = rest % mesh.sizes[i];
    rest /= mesh.sizes[i];
  }
  return coordinate;
}

}  // namespace

absl::Status CheckSave(const v1::SaveRequest& request) {
  if (request.number() == 0 || request.number() > proto::kMaxSaveNumber) {
    return Invalid("BAD_SAVE_NUMBER", absl::StrCat("Save number ", request.number(), " is not in 1..",
                                                   proto::kMaxSaveNumber, ". Saves are numbered from 1."));
  }
  if (request.step() < 0 || request.step() > storage::kMaxStep) {
    return Invalid("BAD_STEP",
                   absl::StrCat("Step ", request.step(), " is not in 0..", storage::kMaxStep, "."));
  }
  if (!v1::BusyPolicy_IsValid(request.on_busy()))
    return Invalid("BAD_POLICY", "on_busy is BUSY_WAIT, BUSY_SKIP or BUSY_SUPERSEDE.");
  if (absl::Status status = proto::CheckLabels(request.metrics(), request.tags()); !status.ok())
    return Because(status, "LABELS_TOO_LARGE", "accept");
  if (request.extras_size() > kMaxExtras) {
    return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_EXTRAS",
                     absl::StrCat(request.extras_size(), " extras; a save takes ", kMaxExtras, " of a rank."),
                     "accept");
  }
  int64_t bytes = 0;
  std::set<std::string> names;
  for (const v1::Extra& extra : request.extras()) {
    if (absl::Status status = reshard::ValidateTensorName(extra.name()); !status.ok())
      return Because(status, "BAD_EXTRA", "accept");
    if (!names.insert(extra.name()).second)
      return Invalid("DUPLICATE_EXTRA", absl::StrCat("Extra '", extra.name(), "' comes twice."));
    if (!extra.splittable() && extra.items_size() != 1)
      return Invalid("BAD_EXTRA", "An extra that cannot be split has one item.");
    for (const std::string& item : extra.items()) bytes += static_cast<int64_t>(item.size());
  }
  if (request.fences_size() > kMaxFences)
    return Invalid("TOO_MANY_FENCES", absl::StrCat("A save comes after at most ", kMaxFences, " events."));
  for (const v1::DeviceFence& fence : request.fences()) {
    if (absl::Status status = FenceFrom(fence).status(); !status.ok()) return status;
  }
  if (bytes > kMaxExtraBytes) {
    return MakeError(absl::StatusCode::kResourceExhausted, "EXTRAS_TOO_LARGE",
                     absl::StrCat("Extras of ", bytes,
                                  " bytes; a save takes 1 MiB of them. Register large state as tensors."),
                     "accept");
  }
  return absl::OkStatus();
}

SaveArgs ArgsFrom(const v1::SaveRequest& request, const Membership& member,
                  std::shared_ptr<const Registration> registration) {
  SaveArgs args{.number = request.number(),
                .step = request.step(),
                .policy = static_cast<BusyPolicy>(request.on_busy()),
                .registration = std::move(registration)};
  for (const v1::Extra& extra : request.extras()) {
    args.extras.push_back({.name = extra.name(),
                           .coordinate = CoordinateOf(member.mesh, member.rank),
                           .splittable = extra.splittable(),
                           .items = {extra.items().begin(), extra.items().end()}});
  }
  args.metrics.insert(request.metrics().begin(), request.metrics().end());
  args.tags.assign(request.tags().begin(), request.tags().end());
  for (const v1::DeviceFence& fence : request.fences()) args.fences.push_back(*FenceFrom(fence));
  return args;
}

}  // namespace keepstep::daemon
