// Every metric that the daemon counts as it works; docs/operations.md lists them. What merely is (pool,
// sessions, ages) is read at each scrape by StateCollector.
//
// Labels are bounded: each is one of a fixed set, or goes through Bounded, which calls what comes after the
// first kMaxReasons "other". No label holds a job's name: HTTP callers see only their own jobs.
//
// Thread-safe.

#ifndef KEEPSTEP_DAEMON_METRICS_H_
#define KEEPSTEP_DAEMON_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "daemon/stage_meter.h"

namespace keepstep::daemon {

// What one save spends its time on, one after the other; kSeal runs beside kPersist.
enum class SavePhase { kJournal, kPlan, kCopy, kSeal, kPersist, kPart, kCommit, kCatalog };
inline constexpr std::array<const char*, 8> kSavePhases = {"journal", "plan", "copy",   "seal",
                                                           "persist", "part", "commit", "catalog"};
enum class LoadPhase { kResolve, kPlan, kFill };
inline constexpr std::array<const char*, 3> kLoadPhases = {"resolve", "plan", "fill"};

enum class StoreCall {
  kCreate,
  kWrite,
  kFinish,
  kOpen,
  kRead,
  kPublish,
  kReadPublished,
  kSyncTree,
  kList,
  kDelete,
  kSpace
};
inline constexpr std::array<const char*, 11> kStoreCalls = {
    "create",         "write",     "finish", "open",   "read", "publish",
    "read_published", "sync_tree", "list",   "delete", "space"};

class Metrics {
 public:
  static constexpr size_t kMaxReasons = 128;

  Metrics();

  prometheus::Registry& registry() { return registry_; }

  // ---- saves ----
  prometheus::Histogram& save_phase(SavePhase phase) { return *save_phases_[static_cast<size_t>(phase)]; }
  // `reason` is an entry of docs/errors.md; "" for a commit.
  void SaveOver(absl::string_view outcome, absl::string_view reason);
  void Rescued(bool committed);  // trainers died with memory that was kept
  prometheus::Histogram* save_snapshot =
      nullptr;  // from the first rank's call until every rank's source is free
  prometheus::Histogram* save_persist = nullptr;  // … until every blob is durable
  prometheus::Histogram* save_commit = nullptr;   // … until COMMITTED
  prometheus::Histogram* save_gate = nullptr;     // of one rank: from its call until its source is free
  prometheus::Histogram* save_bandwidth = nullptr;
  prometheus::Counter* saved_bytes = nullptr;  // of committed saves
  prometheus::Gauge* saves_in_flight = nullptr;
  prometheus::Counter* store_retries = nullptr;

  // ---- loads ----
  prometheus::Histogram& load_phase(LoadPhase phase) { return *load_phases_[static_cast<size_t>(phase)]; }
  void LoadOver(absl::string_view outcome, absl::string_view reason);
  prometheus::Histogram* load_seconds = nullptr;
  prometheus::Histogram* load_bandwidth = nullptr;
  prometheus::Counter* load_delivered_bytes = nullptr;
  prometheus::Counter* load_unique_bytes = nullptr;
  prometheus::Counter* load_read_bytes = nullptr;
  prometheus::Counter* load_warm_bytes = nullptr;

  // ---- pieces and storage ----
  const PlaneMeters& plane() const { return plane_; }
  prometheus::Histogram& store_seconds(StoreCall call) { return *store_seconds_[static_cast<size_t>(call)]; }
  void StoreFailed(StoreCall call, absl::string_view code);
  prometheus::Counter* store_written_bytes = nullptr;
  prometheus::Counter* store_read_bytes = nullptr;

 private:
  std::string Bounded(absl::string_view reason);
  void MakeSaves();
  void MakeLoads();
  void MakePieces();
  void MakeStore();

  prometheus::Registry registry_;
  std::array<prometheus::Histogram*, kSavePhases.size()> save_phases_{};
  std::array<prometheus::Histogram*, kLoadPhases.size()> load_phases_{};
  std::array<prometheus::Histogram*, kStoreCalls.size()> store_seconds_{};
  prometheus::Family<prometheus::Counter>* saves_ = nullptr;
  prometheus::Counter* rescued_ = nullptr;
  prometheus::Counter* not_rescued_ = nullptr;
  prometheus::Family<prometheus::Counter>* loads_ = nullptr;
  prometheus::Family<prometheus::Counter>* store_errors_ = nullptr;
  std::vector<std::unique_ptr<StageMeter>> stages_;
  PlaneMeters plane_;
  std::mutex mutex_;
  std::set<std::string, std::less<>> reasons_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_METRICS_H_
