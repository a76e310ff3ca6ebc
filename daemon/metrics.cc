#include "daemon/metrics.h"

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Histogram;

// Work on one piece of at most some MiB, one storage operation.
Buckets PieceSeconds() { return {1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60}; }
// A whole save or load: from milliseconds to the half hour after which nothing is waited for.
Buckets WholeSeconds() { return {1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800}; }
Buckets Bandwidth() {
  return {50e6, 100e6, 250e6, 500e6, 1e9, 2e9, 3e9, 5e9, 8e9, 12e9, 20e9, 30e9, 45e9, 60e9};
}

Family<Counter>& Counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

Family<Histogram>& Histograms(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics() {
  MakeSaves();
  MakeLoads();
  MakePieces();
  MakeStore();
}

void Metrics::MakeSaves() {
  auto& phases =
      Histograms(registry_, "keepstep_save_stage_seconds", "What committed saves spent in each stage");
  for (size_t i = 0; i < kSavePhases.size(); ++i)
    save_phases_[i] = &phases.Add({{"stage", kSavePhases[i]}}, WholeSeconds());
  auto& whole =
      Histograms(registry_, "keepstep_save_seconds", "From the first rank's call of save to a state of all");
  save_snapshot = &whole.Add({{"until", "snapshot"}}, WholeSeconds());
  save_persist = &whole.Add({{"until", "persist"}}, WholeSeconds());
  save_commit = &whole.Add({{"until", "commit"}}, WholeSeconds());
  save_gate = &Histograms(registry_, "keepstep_save_gate_seconds",
                          "From a rank's call of save until its tensors may change")
                   .Add({}, WholeSeconds());
  save_bandwidth = &Histograms(registry_, "keepstep_save_bandwidth_bytes_per_second",
                               "Bytes of a save by its time to COMMITTED")
                        .Add({}, Bandwidth());
  saves_ = &Counters(registry_, "keepstep_saves_total", "Saves that are over");
  for (const char* outcome : {"committed", "failed", "skipped", "superseded", "cancelled"})
    saves_->Add({{"outcome", outcome}, {"reason", ""}});
  auto& rescues = Counters(registry_, "keepstep_rescues_total", "Jobs whose trainers died while their memory was kept");
  rescued_ = &rescues.Add({{"outcome", "committed"}});
  not_rescued_ = &rescues.Add({{"outcome", "nothing"}});
  saved_bytes = &Counters(registry_, "keepstep_saved_bytes_total", "Bytes of committed saves").Add({});
  saves_in_flight = &prometheus::BuildGauge()
                         .Name("keepstep_saves_in_flight")
                         .Help("Attempts that are journaled and not decided")
                         .Register(registry_)
                         .Add({});
}

void Metrics::MakeLoads() {
  auto& phases =
      Histograms(registry_, "keepstep_load_stage_seconds", "What loads of one rank spent in each stage");
  for (size_t i = 0; i < kLoadPhases.size(); ++i)
    load_phases_[i] = &phases.Add({{"stage", kLoadPhases[i]}}, WholeSeconds());
  load_seconds =
      &Histograms(registry_, "keepstep_load_seconds", "Loads of one rank, whole").Add({}, WholeSeconds());
  load_bandwidth = &Histograms(registry_, "keepstep_load_bandwidth_bytes_per_second",
                               "Delivered bytes by the time of a load")
                        .Add({}, Bandwidth());
  loads_ = &Counters(registry_, "keepstep_loads_total", "Loads of one rank that are over");
  for (const char* outcome : {"loaded", "nothing", "failed"})
    loads_->Add({{"outcome", outcome}, {"reason", ""}});
  load_delivered_bytes =
      &Counters(registry_, "keepstep_load_delivered_bytes_total", "Into trainers' tensors").Add({});
  load_unique_bytes =
      &Counters(registry_, "keepstep_load_unique_bytes_total", "Of the blocks that loads needed").Add({});
  load_read_bytes = &Counters(registry_, "keepstep_load_read_bytes_total", "From storage, by loads").Add({});
  load_warm_bytes =
      &Counters(registry_, "keepstep_load_warm_bytes_total", "Of needed blocks that were in memory").Add({});
}

void Metrics::MakePieces() {
  auto& seconds = Histograms(registry_, "keepstep_piece_seconds", "Work on one piece in memory");
  auto& bytes = Counters(registry_, "keepstep_piece_bytes_total", "Bytes of those pieces");
  auto& bandwidth =
      Histograms(registry_, "keepstep_piece_bandwidth_bytes_per_second", "Bytes of a piece by its time");
  const auto make = [&](const char* stage) {
    const prometheus::Labels labels = {{"stage", stage}};
    stages_.push_back(std::make_unique<StageMeter>(&seconds.Add(labels, PieceSeconds()), &bytes.Add(labels),
                                                   &bandwidth.Add(labels, Bandwidth())));
    return stages_.back().get();
  };
  plane_ = {
      .copy = make("copy"), .digest = make("digest"), .verify = make("verify"), .scatter = make("scatter")};
}

void Metrics::MakeStore() {
  auto& seconds =
      Histograms(registry_, "keepstep_storage_operation_seconds", "Operations on the jobs' storage");
  for (size_t i = 0; i < kStoreCalls.size(); ++i)
    store_seconds_[i] = &seconds.Add({{"operation", kStoreCalls[i]}}, PieceSeconds());
  store_errors_ = &Counters(registry_, "keepstep_storage_errors_total", "Operations that failed");
  store_written_bytes =
      &Counters(registry_, "keepstep_storage_written_bytes_total", "Bytes of blobs and records written")
           .Add({});
  store_read_bytes =
      &Counters(registry_, "keepstep_storage_read_bytes_total", "Bytes of blobs and records read").Add({});
  store_retries = &Counters(registry_, "keepstep_storage_retries_total",
                            "Operations that a job asked for again after a failure")
                       .Add({});
}

// After kMaxReasons different ones, "other": a bug that makes reasons up must not fill the memory of two
// programs.
std::string Metrics::Bounded(absl::string_view reason) {
  std::lock_guard lock(mutex_);
  if (reasons_.contains(reason) || reason.empty()) return std::string(reason);
  if (reasons_.size() >= kMaxReasons) return "other";
  return *reasons_.emplace(reason).first;
}

void Metrics::SaveOver(absl::string_view outcome, absl::string_view reason) {
  saves_->Add({{"outcome", std::string(outcome)}, {"reason", Bounded(reason)}}).Increment();
}

void Metrics::Rescued(bool committed) { (committed ? rescued_ : not_rescued_)->Increment(); }

void Metrics::LoadOver(absl::string_view outcome, absl::string_view reason) {
  loads_->Add({{"outcome", std::string(outcome)}, {"reason", Bounded(reason)}}).Increment();
}

void Metrics::StoreFailed(StoreCall call, absl::string_view code) {
  store_errors_->Add({{"operation", kStoreCalls[static_cast<size_t>(call)]}, {"code", std::string(code)}})
      .Increment();
}

}  // namespace keepstep::daemon
