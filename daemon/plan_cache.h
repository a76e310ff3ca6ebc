// Save plans by what the ranks have registered: a run makes one, and uses it for every save.
//
// Thread-safe.

#ifndef KEEPSTEP_DAEMON_PLAN_CACHE_H_
#define KEEPSTEP_DAEMON_PLAN_CACHE_H_

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/cancellation.h"
#include "daemon/memory_port.h"
#include "daemon/registration.h"
#include "reshard/save_plan.h"

namespace keepstep::daemon {

struct PlanRank {
  std::shared_ptr<const Registration> registration;
  std::shared_ptr<MemoryPort> port;
};

class PlanCache {
 public:
  // The plan of these ranks, in the order of ranks. With `check_replicas`, samples of declared replicas are
  // compared unless they were before. Blocks (planning, reading memory). Errors of MakeSavePlan and
  // CheckReplicas, with their reasons.
  absl::StatusOr<std::shared_ptr<const reshard::SavePlan>> Get(absl::Span<const PlanRank> ranks,
                                                               bool check_replicas, Cancellation& cancel);

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const reshard::SavePlan> plan;
    bool replicas_checked = false;
  };

  std::mutex mutex_;
  std::list<Entry> entries_;  // newest first
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PLAN_CACHE_H_
