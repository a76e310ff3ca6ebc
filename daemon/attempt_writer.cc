#include "daemon/attempt_writer.h"

#include <algorithm>
#include <climits>
#include <condition_variable>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/part_builder.h"
#include "daemon/plan_error.h"
#include "daemon/room.h"
#include "daemon/save_pipeline.h"
#include "daemon/version.h"
#include "proto/convert.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"
#include "storage/commit.h"
#include "storage/record.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kPlaceAlignment = 64;

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t Random64() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// The newest claimed epoch (a directory without a claim is none); claims the first one in a job that has none.
absl::StatusOr<int64_t> CurrentEpoch(storage::BlobStore& store) {
  auto directory = storage::BlobPath::Parse(storage::kEpochsDir);
  auto listed = store.List(*directory);
  if (!listed.ok()) return listed.status();
  std::vector<int64_t> epochs;
  for (const storage::BlobInfo& info : *listed) {
    if (const auto epoch = storage::ParseEpoch(info.path.Leaf())) epochs.push_back(*epoch);
  }
  std::sort(epochs.rbegin(), epochs.rend());
  for (const int64_t epoch : epochs) {
    const auto claimed = store.ReadPublished(*storage::BlobPath::Parse(storage::ClaimPath(epoch)));
    if (claimed.ok()) return epoch;
    if (!absl::IsNotFound(claimed.status())) return claimed.status();
  }
  v1::Claim claim;
  claim.set_epoch(1);
  claim.set_world_size(1);
  std::string nonce(16, '\0');
  const uint64_t random[2] = {Random64(), Random64()};
  memcpy(nonce.data(), random, sizeof(random));
  claim.set_nonce(nonce);
  claim.set_time_unix_ms(UnixMs());
  auto path = storage::BlobPath::Parse(storage::ClaimPath(1));
  const absl::Status status = store.PublishExclusive(*path, storage::EncodeClaim(claim));
  if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  return 1;
}

absl::StatusOr<int64_t> NextCounter(storage::BlobStore& store, int64_t step, int64_t epoch) {
  auto attempts = storage::ListAttempts(store, step);
  if (!attempts.ok()) return attempts.status();
  int64_t counter = 0;
  for (const storage::AttemptInfo& info : *attempts) {
    if (info.id.epoch == epoch) counter = std::max(counter, info.id.counter);
  }
  return counter + 1;
}

absl::Status CheckFree(storage::BlobStore& store, int64_t step, int64_t epoch) {
  auto committed = storage::CommittedAttempt(store, step);
  if (absl::IsNotFound(committed.status())) return absl::OkStatus();
  if (!committed.ok()) return committed.status();
  if (committed->epoch() != epoch) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kAlreadyExists, "STEP_EXISTS",
      absl::StrCat("Step ", step, " is committed in this epoch. Choose another step, or delete it first."),
      "begin");
}

// Runs the pipeline of the whole attempt to its end.
absl::StatusOr<SavedShare> RunSave(DataPlane& plane, SaveSpec spec) {
  struct {
    std::mutex mutex;
    std::condition_variable wake;
    bool ended = false;
    absl::Status status = absl::InternalError("the pipeline ended without a result");
    SavedShare share;
  } result;
  SaveCallbacks callbacks;
  callbacks.group_copied = [](uint32_t) {};
  callbacks.copied = [] {};
  callbacks.flushed = [&](SavedShare share) {
    std::lock_guard lock(result.mutex);
    result.share = std::move(share);
    result.status = absl::OkStatus();
  };
  callbacks.failed = [&](std::string stage, absl::Status status) {
    std::lock_guard lock(result.mutex);
    result.status = MakeError(status.code(), ReasonOf(status), status.message(), stage);
  };
  callbacks.ended = [&] {
    std::lock_guard lock(result.mutex);
    result.ended = true;
    result.wake.notify_all();
  };
  auto pipeline = StartSave(plane, std::move(spec), std::move(callbacks));
  {
    std::unique_lock lock(result.mutex);
    result.wake.wait(lock, [&] { return result.ended; });
  }
  pipeline = nullptr;
  if (!result.status.ok()) return result.status;
  return std::move(result.share);
}

}  // namespace

AttemptWriter::AttemptWriter(DataPlane* plane, storage::Catalog* catalog, Log* log,
                             std::string spool_directory, std::chrono::milliseconds idle_limit,
                             int64_t quota_bytes)
    : plane_(plane),
      catalog_(catalog),
      log_(log),
      spool_directory_(std::move(spool_directory)),
      idle_limit_(idle_limit),
      quota_bytes_(quota_bytes) {}

absl::StatusOr<v1::BeginResponse> AttemptWriter::Begin(std::shared_ptr<Job> job,
                                                       const v1::BeginRequest& request) {
  if (request.step() < 0 || request.step() > storage::kMaxStep) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_STEP",
                     absl::StrCat("Step ", request.step(), " is out of range."), "begin");
  }
  if (absl::Status status = proto::CheckLabels(request.metrics(), request.tags()); !status.ok())
    return Because(status, "LABELS_TOO_LARGE", "begin");
  auto attempt = std::make_shared<Attempt>();
  attempt->job = job;
  attempt->step = request.step();
  if (absl::Status status = Lay(request, *attempt); !status.ok()) return status;
  auto epoch = CurrentEpoch(*job->store());
  if (!epoch.ok()) return epoch.status();
  if (absl::Status status = CheckFree(*job->store(), request.step(), *epoch); !status.ok()) return status;
  auto counter = NextCounter(*job->store(), request.step(), *epoch);
  if (!counter.ok()) return counter.status();
  attempt->epoch = *epoch;
  attempt->name = storage::AttemptName({*epoch, *counter, Random64()});
  absl::Status status = catalog_->PutJournal({job->identity().path, attempt->name, attempt->step, *epoch});
  if (!status.ok()) return status;
  {
    std::lock_guard lock(mutex_);
    if (attempts_.size() >= kMaxOpenAttempts) {
      catalog_->EraseJournal(job->identity().path, attempt->name).IgnoreError();
      return MakeError(
          absl::StatusCode::kResourceExhausted, "TOO_MANY_ATTEMPTS",
          absl::StrCat(kMaxOpenAttempts, " checkpoints are being written already. Commit or abort one."),
          "begin");
    }
    attempts_[attempt->name] = attempt;
  }
  v1::BeginResponse response;
  response.set_attempt(attempt->name);
  response.set_epoch(*epoch);
  return response;
}

absl::Status AttemptWriter::Lay(const v1::BeginRequest& request, Attempt& attempt) {
  auto mesh = proto::MeshFrom({}, 1);
  auto shards = std::make_shared<reshard::RankShards>();
  int64_t size_bytes = 0;
  for (const v1::Shard& from : request.shards()) {
    auto shard = proto::ShardFrom(from, *mesh, 0, 1);
    if (!shard.ok()) return Because(shard.status(), "BAD_SHARD", "begin");
    if (attempt.by_name.contains(shard->meta.fqn)) {
      return MakeError(absl::StatusCode::kInvalidArgument, "DUPLICATE_TENSOR",
                       absl::StrCat("Tensor '", shard->meta.fqn, "' comes twice; say all its boxes at once."),
                       "begin");
    }
    const int64_t item_bytes = reshard::SizeBytes(shard->meta.dtype);
    shard->buffer = 0;
    for (reshard::LocalBox& box : shard->boxes) {  // packed one after the other, wherever the caller said
      size_bytes = (size_bytes + kPlaceAlignment - 1) / kPlaceAlignment * kPlaceAlignment;
      const int64_t box_bytes = reshard::NumElements(box.box) * item_bytes;
      if (box_bytes > INT64_MAX / 2 - size_bytes) {
        return MakeError(absl::StatusCode::kInvalidArgument, "TOO_LARGE",
                         "The layout has more bytes than fit.", "begin");
      }
      box = reshard::RowMajorLayout(box.box, item_bytes, size_bytes);
      size_bytes += box_bytes;
    }
    attempt.by_name[shard->meta.fqn] = static_cast<uint32_t>(shards->shards.size());
    attempt.received_bytes.emplace_back(shard->boxes.size(), 0);
    shards->shards.push_back(*std::move(shard));
  }
  auto plan = reshard::MakeSavePlan(absl::MakeConstSpan(shards.get(), 1));
  if (!plan.ok()) return SavePlanError(plan.status(), "begin");
  if (absl::Status room = CheckRoom(*attempt.job->store(), attempt.job->label(), size_bytes, quota_bytes_);
      !room.ok())
    return room;
  auto spool = Spool::Make(spool_directory_, size_bytes);
  if (!spool.ok()) return spool.status();
  attempt.spool = *std::move(spool);
  attempt.plan = std::make_shared<const reshard::SavePlan>(*std::move(plan));
  attempt.shards = std::move(shards);
  *attempt.intent.mutable_metrics() = request.metrics();
  *attempt.intent.mutable_tags() = request.tags();
  *attempt.intent.mutable_mesh() = proto::ToProto(*mesh);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<AttemptWriter::Attempt>> AttemptWriter::Find(absl::string_view name) {
  std::lock_guard lock(mutex_);
  auto found = attempts_.find(std::string(name));
  if (found == attempts_.end()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "ATTEMPT_OVER",
                     absl::StrCat("No attempt '", name.substr(0, 100),
                                  "' is being written: it was committed, aborted, or never begun."));
  }
  found->second->used = std::chrono::steady_clock::now();
  return found->second;
}

absl::StatusOr<std::shared_ptr<Job>> AttemptWriter::JobOf(absl::string_view name) {
  auto attempt = Find(name);
  if (!attempt.ok()) return attempt.status();
  return (*attempt)->job;
}

absl::Status AttemptWriter::Write(absl::string_view name, const v1::WriteChunk& chunk) {
  auto found = Find(name);
  if (!found.ok()) return found.status();
  Attempt& attempt = **found;
  std::lock_guard lock(attempt.mutex);
  if (attempt.over)
    return MakeError(absl::StatusCode::kFailedPrecondition, "ATTEMPT_OVER", "The attempt is decided.");
  auto shard = attempt.by_name.find(chunk.fqn());
  if (shard == attempt.by_name.end() || chunk.box() >= attempt.received_bytes[shard->second].size()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "UNKNOWN_BOX",
                     absl::StrCat("'", chunk.fqn(), "' box ", chunk.box(), " is not in the layout of Begin."),
                     "write");
  }
  const reshard::TensorShard& tensor = attempt.shards->shards[shard->second];
  const reshard::LocalBox& box = tensor.boxes[chunk.box()];
  int64_t& received = attempt.received_bytes[shard->second][chunk.box()];
  const int64_t box_bytes = reshard::NumElements(box.box) * reshard::SizeBytes(tensor.meta.dtype);
  const int64_t size = static_cast<int64_t>(chunk.data().size());
  if (chunk.offset_bytes() < 0 || chunk.offset_bytes() > box_bytes ||
      size > box_bytes - chunk.offset_bytes()) {
    return MakeError(absl::StatusCode::kOutOfRange, "PAST_THE_END",
                     absl::StrCat("'", chunk.fqn(), "' box ", chunk.box(), " has ", box_bytes, " bytes."),
                     "write");
  }
  if (chunk.offset_bytes() != received) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "OUT_OF_ORDER",
                     absl::StrCat("'", chunk.fqn(), "' box ", chunk.box(), " goes on at byte ", received,
                                  ", not at ", chunk.offset_bytes(), "."),
                     "write");
  }
  if (absl::Status status = attempt.spool->Put(box.offset_bytes + chunk.offset_bytes(), chunk.data());
      !status.ok())
    return status;
  received += size;
  return absl::OkStatus();
}

absl::StatusOr<v1::Decision> AttemptWriter::Commit(absl::string_view name) {
  auto found = Find(name);
  if (!found.ok()) return found.status();
  Attempt& attempt = **found;
  std::lock_guard lock(attempt.mutex);
  if (attempt.over)
    return MakeError(absl::StatusCode::kFailedPrecondition, "ATTEMPT_OVER", "The attempt is decided.");
  for (size_t i = 0; i < attempt.received_bytes.size(); ++i) {
    const reshard::TensorShard& shard = attempt.shards->shards[i];
    for (size_t k = 0; k < shard.boxes.size(); ++k) {
      const int64_t all = reshard::NumElements(shard.boxes[k].box) * reshard::SizeBytes(shard.meta.dtype);
      if (attempt.received_bytes[i][k] == all) continue;
      return MakeError(absl::StatusCode::kFailedPrecondition, "BYTES_MISSING",
                       absl::StrCat("'", shard.meta.fqn, "' box ", k, " has ", attempt.received_bytes[i][k],
                                    " of ", all, " bytes. Write the rest, or abort."),
                       "commit");
    }
  }
  attempt.over = true;
  auto decision = Publish(attempt);
  attempt.job->CountDirectSave(decision.status(), decision.ok() ? decision->tensor_bytes() : 0);
  if (!decision.ok()) GiveUp(attempt, decision.status());
  Forget(name);
  return decision;
}

absl::StatusOr<v1::Decision> AttemptWriter::Publish(Attempt& attempt) {
  auto directory = storage::BlobPath::Parse(storage::AttemptDir(attempt.step, attempt.name));
  storage::BlobStore& store = *attempt.job->store();
  SaveSpec spec{.store = attempt.job->store(),
                .directory = *directory,
                .cache_prefix = attempt.job->cache_prefix(),
                .world_size = 1,
                .plan = attempt.plan,
                .shards = attempt.shards,
                .buffer_addresses = {Spool::kBase},
                .port = attempt.spool};
  auto share = RunSave(*plane_, std::move(spec));
  if (!share.ok()) return share.status();
  v1::Decision intent = attempt.intent;
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(attempt.step);
  intent.set_attempt(attempt.name);
  intent.set_epoch(attempt.epoch);
  intent.set_layout(attempt.plan->fingerprint);
  intent.set_world_size(1);
  intent.set_time_unix_ms(UnixMs());
  intent.set_writer(absl::StrCat("keepstepd ", kVersion));
  intent.set_tensor_count(static_cast<int64_t>(attempt.shards->shards.size()));
  int64_t bytes = 0;
  for (const reshard::BlobPlan& blob : attempt.plan->blobs) bytes += blob.size_bytes;
  intent.set_tensor_bytes(bytes);
  const SavedShare* const only = &*share;
  const v1::Part part = BuildPart(attempt.name, 0, 1, {&only, 1}, intent);
  auto published = storage::PublishPart(store, attempt.step, part);
  if (!published.ok()) return published.status();
  const storage::CommitOutcome outcome =
      storage::Decide(store, storage::CommitMachine(storage::CommitMachine::Want::kCommit, intent,
                                                    {storage::PartName(0)}, {*std::move(published)}));
  if (outcome.kind != storage::CommitOutcome::Kind::kCommitted) {
    const absl::StatusCode code = outcome.status.ok() ? absl::StatusCode::kAborted : outcome.status.code();
    return MakeError(code, outcome.reason.empty() ? "ABORTED" : outcome.reason,
                     absl::StrCat("The attempt did not commit. ", outcome.status.message()), "commit");
  }
  const std::string& path = attempt.job->identity().path;
  catalog_->RecordCommit(path, outcome.decision, absl::MakeConstSpan(&part, 1)).IgnoreError();  // rebuildable
  catalog_->EraseJournal(path, attempt.name).IgnoreError();  // else settled again at the next start
  log_->Info(
      absl::StrCat(attempt.job->label(), "/", attempt.step, " committed, ", HumanBytes(bytes)),
      {{"job", attempt.job->label()}, {"step", absl::StrCat(attempt.step)}, {"attempt", attempt.name}});
  return outcome.decision;
}

void AttemptWriter::GiveUp(Attempt& attempt, const absl::Status& why) {
  attempt.over = true;
  v1::Decision abort;
  abort.set_step(attempt.step);
  abort.set_attempt(attempt.name);
  abort.set_epoch(attempt.epoch);
  abort.set_time_unix_ms(UnixMs());
  abort.set_reason(ReasonOf(why));
  abort.set_message(std::string(why.message()));
  abort.set_writer(absl::StrCat("keepstepd ", kVersion));
  const storage::CommitOutcome outcome = storage::Decide(
      *attempt.job->store(), storage::CommitMachine(storage::CommitMachine::Want::kAbort, abort, {}));
  const bool decided = outcome.kind == storage::CommitOutcome::Kind::kAborted ||
                       outcome.kind == storage::CommitOutcome::Kind::kCommitted;
  if (decided && outcome.status.ok())
    catalog_->EraseJournal(attempt.job->identity().path, attempt.name).IgnoreError();
}

absl::Status AttemptWriter::Abort(absl::string_view name) {
  auto found = Find(name);
  if (!found.ok()) return found.status();
  {
    std::lock_guard lock((*found)->mutex);
    if (!(*found)->over) GiveUp(**found, absl::CancelledError("The writer aborted it."));
  }
  Forget(name);
  return absl::OkStatus();
}

void AttemptWriter::SetLimits(std::chrono::milliseconds idle_limit, int64_t quota_bytes) {
  idle_limit_ = idle_limit;
  quota_bytes_ = quota_bytes;
}

void AttemptWriter::AbortIdle() {
  std::vector<std::shared_ptr<Attempt>> idle;
  {
    std::lock_guard lock(mutex_);
    const auto limit = std::chrono::steady_clock::now() - idle_limit_.load();
    for (const auto& [name, attempt] : attempts_) {
      if (attempt->used < limit) idle.push_back(attempt);
    }
  }
  for (const auto& attempt : idle) {
    std::unique_lock lock(attempt->mutex, std::try_to_lock);
    if (!lock.owns_lock()) continue;  // a call is at work on it
    if (!attempt->over) GiveUp(*attempt, absl::AbortedError("Nobody has written it for too long."));
    Forget(attempt->name);
  }
}

size_t AttemptWriter::open() const {
  std::lock_guard lock(mutex_);
  return attempts_.size();
}

void AttemptWriter::Forget(absl::string_view name) {
  std::lock_guard lock(mutex_);
  attempts_.erase(std::string(name));
}

}  // namespace keepstep::daemon
