#include "daemon/load_meter.h"

#include "daemon/error.h"

namespace keepstep::daemon {

void LoadMeter::Count(LoadPhase phase) {
  if (metrics_ == nullptr) return;
  metrics_->load_phase(phase).Observe(SecondsSince(stage_));
  stage_ = Clock::now();
}

void LoadMeter::Resolved() { Count(LoadPhase::kResolve); }
void LoadMeter::Planned() { Count(LoadPhase::kPlan); }

void LoadMeter::Loaded(const v1::LoadReport& report) {
  Count(LoadPhase::kFill);
  loaded_ = true;
  if (metrics_ == nullptr) return;
  const double seconds = SecondsSince(started_);
  metrics_->load_seconds->Observe(seconds);
  metrics_->load_delivered_bytes->Increment(static_cast<double>(report.delivered_bytes()));
  metrics_->load_unique_bytes->Increment(static_cast<double>(report.unique_bytes()));
  metrics_->load_read_bytes->Increment(static_cast<double>(report.read_bytes()));
  metrics_->load_warm_bytes->Increment(static_cast<double>(report.warm_bytes()));
  if (seconds > 0 && report.delivered_bytes() > 0)
    metrics_->load_bandwidth->Observe(static_cast<double>(report.delivered_bytes()) / seconds);
}

absl::Status LoadMeter::Over(absl::Status status) {
  if (metrics_ == nullptr) return status;
  if (loaded_) {
    metrics_->LoadOver("loaded", "");
  } else if (status.ok()) {
    metrics_->LoadOver("nothing", "");
  } else {
    metrics_->LoadOver("failed", ReasonOf(status));
  }
  return status;
}

}  // namespace keepstep::daemon
