#include "daemon/attempt_io.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "daemon/error.h"
#include "daemon/part_builder.h"
#include "storage/attempt.h"
#include "storage/commit.h"

namespace keepstep::daemon {
namespace {

void CountTensors(absl::Span<const std::shared_ptr<const SavedShare>> shares, v1::Decision& intent) {
  absl::flat_hash_set<absl::string_view> names;
  int64_t bytes = 0;
  for (const auto& share : shares) {
    for (const SavedBlob& blob : share->blobs) {
      for (const SavedExtent& extent : blob.extents) {
        if (extent.shard == nullptr) continue;
        names.insert(extent.shard->meta.fqn);
        bytes += extent.size_bytes;
      }
    }
  }
  intent.set_tensor_bytes(bytes);
  intent.set_tensor_count(static_cast<int64_t>(names.size()));
}

}  // namespace

AttemptIo::AttemptIo(Context context, JournalEntry entry)
    : context_(std::move(context)), entry_(std::move(entry)) {}

void AttemptIo::StartRank(int32_t rank, std::shared_ptr<ClientSession> session, int32_t world_size,
                          const SaveArgs& args) {
  Share& share = shares_[rank];
  if (share.pipeline != nullptr || stopping_) return;
  auto directory = storage::BlobPath::Parse(storage::AttemptDir(entry_.step, entry_.attempt));
  SaveSpec spec{.store = context_.store,
                .directory = *directory,
                .cache_prefix = context_.cache_prefix,
                .world_size = world_size,
                .plan = plan_,
                .shards = args.registration->shards,
                .buffer_addresses = args.registration->addresses,
                .on_gpu = args.registration->on_gpu,
                .port = args.port != nullptr ? args.port : session->port(args.registration, args.fences),
                .extras = args.extras};
  for (const reshard::BlobPlan& blob : plan_->blobs) {
    if (blob.rank == rank) share.total_bytes += blob.size_bytes;
  }
  std::set<uint32_t> groups;
  for (const reshard::TensorShard& shard : args.registration->shards->shards) groups.insert(shard.group);
  share.groups_left = groups.size();
  share.metrics = args.metrics;
  share.tags = args.tags;
  share.rescue = args.rescue;
  share.copied_bytes = std::make_shared<std::atomic<int64_t>>(0);
  share.written_bytes = std::make_shared<std::atomic<int64_t>>(0);
  share.pipeline = StartSave(*context_.plane, std::move(spec), CallbacksOf(rank, std::move(session), share));
}

SaveCallbacks AttemptIo::CallbacksOf(int32_t rank, std::shared_ptr<ClientSession> session,
                                     const Share& share) {
  // Weak: pipelines live in this object, and callbacks in the pipelines. `on_strand` outlives both.
  auto later = [weak = weak_from_this(),
                on_strand = context_.on_strand](std::function<void(AttemptIo&)> task) {
    on_strand([weak, task = std::move(task)] {
      if (auto self = weak.lock()) task(*self);
    });
  };
  SaveCallbacks callbacks;
  callbacks.group_copied = [later, rank](uint32_t group) {
    later([rank, group](AttemptIo& io) { io.OnGroupCopied(rank, group); });
  };
  callbacks.copied = [later, rank] { later([rank](AttemptIo& io) { io.OnCopied(rank); }); };
  callbacks.flushed = [later, rank](SavedShare saved) {
    // Shared, not copied from task to task: it has a record for each tensor.
    later([rank, saved = std::make_shared<const SavedShare>(std::move(saved))](AttemptIo& io) {
      io.shares_[rank].saved = saved;
      io.shares_[rank].flushed = true;
      io.context_.feed(RankFlushed{io.entry_.attempt, rank});
    });
  };
  callbacks.failed = [later, rank](std::string stage, absl::Status status) {
    later([rank, stage = std::move(stage), status = std::move(status)](AttemptIo& io) {
      io.context_.feed(RankIoFailed{io.entry_.attempt, rank, stage, status});
    });
  };
  callbacks.ended = [later, rank] { later([rank](AttemptIo& io) { io.OnEnded(rank); }); };
  callbacks.written = [written = share.written_bytes](int64_t bytes) { *written += bytes; };
  callbacks.progress = [session = std::move(session), copied = share.copied_bytes](int64_t bytes) {
    int64_t before = copied->load();
    while (before < bytes && !copied->compare_exchange_weak(before, bytes)) {
    }
    if (before < bytes) session->pages().AddProgress(bytes - before);
  };
  return callbacks;
}

// The last group's release lets the client seal at once. So RankCopied is fed within the same task: a seal
// that is seen next comes after it.
void AttemptIo::OnGroupCopied(int32_t rank, uint32_t group) {
  context_.feed(GroupCopied{entry_.attempt, rank, group});
  Share& share = shares_[rank];
  if (share.groups_left > 0 && --share.groups_left == 0) OnCopied(rank);
}

void AttemptIo::OnCopied(int32_t rank) {
  if (std::exchange(shares_[rank].copied, true)) return;
  copied_ = std::chrono::steady_clock::now();
  context_.feed(RankCopied{entry_.attempt, rank});
}

void AttemptIo::OnEnded(int32_t rank) {
  shares_[rank].ended = true;
  ReportStoppedIfDone();
}

void AttemptIo::WritePart(v1::Decision intent) {
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(entry_.step);
  intent.set_attempt(entry_.attempt);
  intent.set_epoch(entry_.epoch);
  if (plan_ != nullptr) intent.set_layout(plan_->fingerprint);
  std::vector<std::shared_ptr<const SavedShare>> shares;
  std::set<std::string> tags;
  for (auto& [rank, share] : shares_) {
    for (const auto& [name, value] : share.metrics) (*intent.mutable_metrics())[name] = value;
    tags.insert(share.tags.begin(), share.tags.end());
    if (share.rescue) {
      intent.set_rescue(true);
      tags.insert("rescue");
    }
    if (share.saved != nullptr) shares.push_back(std::move(share.saved));
  }
  for (const std::string& tag : tags) intent.add_tags(tag);
  writing_part_ = true;
  context_.io->Submit([weak = weak_from_this(), on_strand = context_.on_strand, store = context_.store,
                       step = entry_.step, attempt = entry_.attempt, shares = std::move(shares),
                       intent = std::move(intent)]() mutable {
    CountTensors(shares, intent);
    std::vector<const SavedShare*> of_ranks;
    for (const auto& share : shares) of_ranks.push_back(share.get());
    auto part = std::make_shared<const v1::Part>(BuildPart(attempt, 0, 1, of_ranks, intent));
    shares.clear();  // before the part is encoded: each has a record for each tensor
    auto published = storage::PublishPart(*store, step, *part);
    on_strand([weak, part = std::move(part), published = std::move(published)] {
      auto self = weak.lock();
      if (self == nullptr) return;
      self->writing_part_ = false;
      PartWritten written{.attempt = self->entry_.attempt, .status = published.status()};
      if (published.ok()) {
        written.part = *published;
        self->part_ = part;
        self->part_digest_ = published->digest;
      }
      self->context_.feed(std::move(written));
      self->ReportStoppedIfDone();
    });
  });
}

void AttemptIo::Stop() {
  stopping_ = true;
  const absl::Status why =
      MakeError(absl::StatusCode::kCancelled, "STOPPED", "The save was given up.", "copy");
  cancellation_->Cancel(why);
  for (auto& [rank, share] : shares_) {
    if (share.pipeline != nullptr && !share.ended) share.pipeline->Cancel(why);
  }
  ReportStoppedIfDone();
}

void AttemptIo::ReportStoppedIfDone() {
  if (!stopping_ || stopped_ || writing_part_) return;
  for (const auto& [rank, share] : shares_) {
    if (share.pipeline != nullptr && !share.ended) return;
  }
  stopped_ = true;
  context_.feed(IoStopped{entry_.attempt});
}

ShareProgress AttemptIo::ProgressOf(int32_t rank) const {
  auto found = shares_.find(rank);
  if (found == shares_.end() || found->second.copied_bytes == nullptr) return {};
  const Share& share = found->second;
  return {share.total_bytes, share.copied_bytes->load(),
          share.flushed ? share.total_bytes : std::min(share.written_bytes->load(), share.total_bytes)};
}

ShareProgress AttemptIo::TotalProgress() const {
  ShareProgress total;
  for (const auto& [rank, share] : shares_) {
    const ShareProgress one = ProgressOf(rank);
    total.bytes_total += one.bytes_total;
    total.bytes_copied += one.bytes_copied;
    total.bytes_written += one.bytes_written;
  }
  return total;
}

bool AttemptIo::Progressed() {
  const ShareProgress total = TotalProgress();
  const int64_t now = total.bytes_copied + total.bytes_written;
  if (std::exchange(seen_bytes_, now) == now) return false;
  moved_ = std::chrono::steady_clock::now();
  return true;
}

}  // namespace keepstep::daemon
