#include "client/c_convert.h"

#include <limits.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/address.h"
#include "client/failure.h"
#include "client/limits.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

constexpr size_t kMaxDims = 64;
constexpr size_t kMaxExtraBytes = 1 << 20;

absl::Status Invalid(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", message);
}

absl::StatusOr<proto::Transfer> ToTransfer(int32_t transfer) {
  if (transfer == KS_TRANSFER_PULL) return proto::Transfer::kPull;
  if (transfer == KS_TRANSFER_WINDOW) return proto::Transfer::kWindow;
  if (transfer != KS_TRANSFER_AUTO) return Invalid("transfer is none of KS_TRANSFER_AUTO, _PULL, _WINDOW");
  const char* wish = std::getenv("KEEPSTEP_TRANSFER");
  const absl::string_view text = wish == nullptr ? "" : wish;
  if (text.empty() || text == "auto") return proto::Transfer::kAuto;
  if (text == "pull") return proto::Transfer::kPull;
  if (text == "window") return proto::Transfer::kWindow;
  return Invalid(absl::StrCat("KEEPSTEP_TRANSFER=", text, " is none of auto, pull, window"));
}

absl::Status FillMesh(const ks_open_options& options, v1::Mesh* mesh) {
  if (options.mesh_sizes == nullptr || options.mesh_dims > kMaxDims)
    return Invalid("a mesh needs sizes, at most 64");
  for (size_t i = 0; i < options.mesh_dims; ++i) {
    if (options.mesh_names[i] == nullptr) return Invalid("a mesh dimension needs a name");
    mesh->add_names(options.mesh_names[i]);
    mesh->add_sizes(options.mesh_sizes[i]);
  }
  return absl::OkStatus();
}

std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

absl::Status AddExtra(const ks_extra& extra, v1::SaveRequest* request) {
  if (extra.name == nullptr || *extra.name == '\0') return Invalid("an extra needs a name");
  if (extra.item_count > 0 && (extra.items == nullptr || extra.item_bytes == nullptr)) {
    return Invalid(absl::StrCat("extra ", extra.name, " has items that are NULL"));
  }
  v1::Extra* out = request->add_extras();
  out->set_name(extra.name);
  out->set_splittable(extra.splittable != 0);
  size_t total_bytes = request->ByteSizeLong();
  for (size_t i = 0; i < extra.item_count; ++i) {
    if (extra.items[i] == nullptr && extra.item_bytes[i] > 0)
      return Invalid(absl::StrCat("extra ", extra.name, " has an item that is NULL"));
    if (extra.item_bytes[i] > kMaxExtraBytes - std::min(total_bytes, kMaxExtraBytes)) {
      return MakeError(
          absl::StatusCode::kResourceExhausted, "EXTRAS_TOO_LARGE",
          absl::StrCat("extras exceed 1 MiB at ", extra.name, ": register large state as tensors"));
    }
    out->add_items(extra.items[i], extra.item_bytes[i]);
    total_bytes += extra.item_bytes[i];
  }
  return absl::OkStatus();
}

template <typename Repeated>
absl::Status AddTexts(const char* const* texts, size_t count, absl::string_view what, Repeated* into) {
  if (count > 0 && texts == nullptr) return Invalid(absl::StrCat(what, " is NULL"));
  for (size_t i = 0; i < count; ++i) {
    if (texts[i] == nullptr) return Invalid(absl::StrCat(what, " holds NULL"));
    *into->Add() = texts[i];
  }
  return absl::OkStatus();
}

template <typename Repeated>
absl::Status JoinNames(const Repeated& names, char** out) {
  const std::string joined = absl::StrJoin(names, "\n");
  *out = static_cast<char*>(std::malloc(joined.size() + 1));
  if (*out == nullptr)
    return MakeError(absl::StatusCode::kResourceExhausted, "NO_MEMORY", "no memory for names");
  CopyText(joined, *out, joined.size() + 1);
  return absl::OkStatus();
}

}  // namespace

void CopyText(const std::string& text, char* into, size_t size_bytes) {
  const size_t length = std::min(text.size(), size_bytes - 1);
  std::memcpy(into, text.data(), length);
  into[length] = '\0';
}

std::string MemoryPaths(const SessionInfo& info) {
  const char* const host = info.transfer == proto::Transfer::kWindow ? "window" : "pull";
  return absl::StrCat("host by ", host, info.device_paths.empty() ? "" : "; ", info.device_paths);
}

ks_code ToError(const absl::Status& status, ks_error* error) {
  const auto code = static_cast<ks_code>(status.code());
  if (error == nullptr) return code;
  const Blame blame = BlameOf(status);
  const std::string code_name = status.ok() ? "" : absl::StatusCodeToString(status.code());
  *error = ks_error{.code = code, .rank = blame.rank};
  CopyText(blame.reason.empty() ? code_name : blame.reason, error->reason, sizeof(error->reason));
  CopyText(blame.stage, error->stage, sizeof(error->stage));
  CopyText(std::string(status.message()), error->message, sizeof(error->message));
  return code;
}

absl::StatusOr<SessionSpec> ToSpec(const ks_open_options& options) {
  if (options.directory == nullptr || *options.directory == '\0')
    return Invalid("a client needs a directory");
  SessionSpec spec;
  auto limits = LimitsFromEnvironment();
  if (!limits.ok()) return limits.status();
  spec.limits = *limits;
  auto address = ParseAddress(options.address == nullptr ? DefaultAddress() : options.address);
  if (!address.ok()) return address.status();
  spec.address = *std::move(address);
  auto transfer = ToTransfer(options.transfer);
  if (!transfer.ok()) return transfer.status();
  spec.transfer = *transfer;
  std::error_code ignored;
  const auto absolute = std::filesystem::absolute(options.directory, ignored).lexically_normal();
  spec.directory = absolute.empty() ? options.directory : absolute.string();
  if (options.mode != KS_TRAIN && options.mode != KS_READ)
    return Invalid("mode is neither KS_TRAIN nor KS_READ");
  spec.open.set_mode(options.mode == KS_READ ? v1::OpenRequest::READ : v1::OpenRequest::TRAIN);
  spec.open.set_rank(options.rank);
  spec.open.set_world_size(options.world_size);
  if (options.mesh_names != nullptr) {
    if (absl::Status status = FillMesh(options, spec.open.mutable_mesh()); !status.ok()) return status;
  }
  if (options.keep_last != 0 || options.keep_every != 0) {
    spec.open.mutable_retention()->set_keep_last(options.keep_last);
    spec.open.mutable_retention()->set_keep_every(options.keep_every);
  }
  if (options.rescue != 0 && options.mode == KS_READ) return Invalid("a reader has nothing to rescue");
  if (options.warm != 0 && options.mode == KS_READ)
    return Invalid("a reader has nothing to go on with: warm is for trainers");
  spec.rescue = options.rescue != 0 || options.warm != 0;  // either needs the flight record
  spec.open.set_warm(options.warm != 0);
  spec.open.set_no_rescue(options.warm != 0 && options.rescue == 0);
  if (options.run != nullptr) spec.open.set_run(options.run);
  if (options.label != nullptr) spec.open.set_label(options.label);
  spec.open.set_client_version(kVersion);
  spec.open.set_host(HostName());
  return spec;
}

absl::StatusOr<v1::SaveRequest> ToSave(int64_t step, const ks_save_options& options) {
  v1::SaveRequest request;
  request.set_step(step);
  if (options.on_busy < KS_WAIT || options.on_busy > KS_SUPERSEDE)
    return Invalid("on_busy is none of KS_WAIT, KS_SKIP, KS_SUPERSEDE");
  request.set_on_busy(static_cast<v1::BusyPolicy>(options.on_busy));
  if (options.extra_count > 0 && options.extras == nullptr) return Invalid("extras is NULL");
  for (size_t i = 0; i < options.extra_count; ++i) {
    if (absl::Status status = AddExtra(options.extras[i], &request); !status.ok()) return status;
  }
  if (options.metric_count > 0 && (options.metric_names == nullptr || options.metric_values == nullptr))
    return Invalid("metrics are NULL");
  for (size_t i = 0; i < options.metric_count; ++i) {
    if (options.metric_names[i] == nullptr) return Invalid("a metric needs a name");
    (*request.mutable_metrics())[options.metric_names[i]] = options.metric_values[i];
  }
  if (absl::Status status = AddTexts(options.tags, options.tag_count, "tags", request.mutable_tags());
      !status.ok())
    return status;
  return request;
}

absl::StatusOr<v1::LoadRequest> ToLoad(const ks_load_options& options) {
  v1::LoadRequest request;
  request.set_latest(options.latest != 0);
  request.set_step(options.step);
  request.set_strict(options.strict != 0);
  request.set_convert_dtype(options.convert_dtype != 0);
  absl::Status status = AddTexts(options.only, options.only_count, "only", request.mutable_only());
  if (!status.ok()) return status;
  status = AddTexts(options.exclude, options.exclude_count, "exclude", request.mutable_exclude());
  if (!status.ok()) return status;
  if (options.rename_count > 0 && (options.rename_from == nullptr || options.rename_to == nullptr))
    return Invalid("rename is NULL");
  for (size_t i = 0; i < options.rename_count; ++i) {
    if (options.rename_from[i] == nullptr || options.rename_to[i] == nullptr)
      return Invalid("rename holds NULL");
    (*request.mutable_rename())[options.rename_from[i]] = options.rename_to[i];
  }
  return request;
}

void ToStatus(const v1::SaveStatus& status, double call_seconds, ks_save_status* out) {
  *out = ks_save_status{.number = status.number(), .step = status.step()};
  out->state = static_cast<ks_state>(status.state());
  CopyText(status.attempt(), out->attempt, sizeof(out->attempt));
  out->bytes_total = status.bytes_total();
  out->bytes_copied = status.bytes_copied();
  out->bytes_written = status.bytes_written();
  out->call_seconds = call_seconds;
  out->snapshot_seconds = status.snapshot_seconds();
  out->persist_seconds = status.persist_seconds();
  out->commit_seconds = status.commit_seconds();
  out->error.rank = -1;
  if (status.has_failure()) ToError(FromFailure(status.failure()), &out->error);
}

absl::Status ToReport(const Client::Loaded& loaded, ks_load_report* out) {
  const v1::LoadReport& report = loaded.report;
  *out = ks_load_report{.found = report.found(), .step = report.step(), .epoch = report.epoch()};
  out->delivered_bytes = report.delivered_bytes();
  out->unique_bytes = report.unique_bytes();
  out->read_bytes = report.read_bytes();
  out->warm_bytes = report.warm_bytes();
  out->seconds = report.seconds();
  CopyText(report.attempt(), out->attempt, sizeof(out->attempt));
  out->warm = loaded.warm;
  CopyText(loaded.why_cold, out->why_cold, sizeof(out->why_cold));
  if (absl::Status status = JoinNames(report.missing(), &out->missing); !status.ok()) return status;
  return JoinNames(report.unexpected(), &out->unexpected);
}

}  // namespace keepstep::client
