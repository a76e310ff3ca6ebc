// The I/O of one attempt to save a step: its ranks' pipelines, what they left on storage, its part.
//
// Lives on its job's strand: every method is called there, every event is fed there. Pipelines report from
// their own threads; what they say is posted to the strand first.

#ifndef KEEPSTEP_DAEMON_ATTEMPT_IO_H_
#define KEEPSTEP_DAEMON_ATTEMPT_IO_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/cancellation.h"
#include "daemon/client_session.h"
#include "daemon/data_plane.h"
#include "daemon/executor.h"
#include "daemon/job_view.h"
#include "daemon/logic/events.h"
#include "daemon/save_pipeline.h"
#include "proto/storage.pb.h"
#include "reshard/save_plan.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

// What one rank asked for.
struct SaveArgs {
  uint64_t number = 0;
  int64_t step = 0;
  BusyPolicy policy = BusyPolicy::kWait;
  std::shared_ptr<const Registration> registration;
  std::vector<ExtraSource> extras;
  std::map<std::string, double> metrics;
  std::vector<std::string> tags;
  std::vector<Fence> fences;
  bool rescue = false;               // of a process that is dead …
  std::shared_ptr<MemoryPort> port;  // … whose memory is reached by this; null: by the session's
};

class AttemptIo : public std::enable_shared_from_this<AttemptIo> {
 public:
  struct Context {
    DataPlane* plane = nullptr;
    Executor* io = nullptr;
    std::shared_ptr<storage::BlobStore> store;
    std::string cache_prefix;
    std::function<void(std::function<void()>)> on_strand;  // any thread; posts
    std::function<void(Event)> feed;                       // on the strand; queues
  };

  AttemptIo(Context context, JournalEntry entry);

  const JournalEntry& entry() const { return entry_; }
  Cancellation& cancellation() { return *cancellation_; }
  std::shared_ptr<Cancellation> shared_cancellation() { return cancellation_; }
  std::chrono::steady_clock::time_point started() const { return started_; }
  const reshard::SavePlan* plan() const { return plan_.get(); }
  void SetPlan(std::shared_ptr<const reshard::SavePlan> plan) { plan_ = std::move(plan); }

  // → GroupCopied, RankCopied, RankFlushed or RankIoFailed. REQUIRES: a plan.
  void StartRank(int32_t rank, std::shared_ptr<ClientSession> session, int32_t world_size,
                 const SaveArgs& args);
  // From the shares of all ranks → PartWritten. `intent` gets kind, step, attempt, layout, metrics and sizes
  // here.
  void WritePart(v1::Decision intent);
  // The part that is published, once, for whoever indexes it; null before and after. To be let go off the
  // strand: to free the records of a hundred thousand tensors would keep the next save waiting.
  std::shared_ptr<const v1::Part> TakePart() { return std::exchange(part_, nullptr); }
  const std::string& part_digest() const { return part_digest_; }
  // Cancels what runs → IoStopped when nothing is in use any more.
  void Stop();

  ShareProgress ProgressOf(int32_t rank) const;
  ShareProgress TotalProgress() const;
  bool Progressed();  // whether bytes have moved since the last call
  std::chrono::steady_clock::time_point moved() const { return moved_; }  // as of the last such call
  // When the last rank's copy was done; the start while it is not.
  std::chrono::steady_clock::time_point copied() const { return copied_; }

 private:
  struct Share {
    std::unique_ptr<SavePipeline> pipeline;
    std::shared_ptr<std::atomic<int64_t>> copied_bytes, written_bytes;
    int64_t total_bytes = 0;
    size_t groups_left = 0;
    bool copied = false, flushed = false;
    bool ended = false;
    std::shared_ptr<const SavedShare> saved;  // from flushed to WritePart
    std::map<std::string, double> metrics;
    std::vector<std::string> tags;
    bool rescue = false;
  };

  SaveCallbacks CallbacksOf(int32_t rank, std::shared_ptr<ClientSession> session, const Share& share);
  void OnGroupCopied(int32_t rank, uint32_t group);
  void OnCopied(int32_t rank);
  void OnEnded(int32_t rank);
  void ReportStoppedIfDone();

  const Context context_;
  const JournalEntry entry_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  const std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
  std::shared_ptr<const reshard::SavePlan> plan_;
  std::map<int32_t, Share> shares_;
  std::shared_ptr<const v1::Part> part_;
  std::string part_digest_;
  bool stopping_ = false, stopped_ = false, writing_part_ = false;
  int64_t seen_bytes_ = 0;
  std::chrono::steady_clock::time_point moved_ = started_, copied_ = started_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_ATTEMPT_IO_H_
