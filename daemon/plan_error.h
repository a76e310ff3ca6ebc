// The reasons of plans that cannot be made: what a program matches when a layout or a load does not fit.
//
// Pure; thread-safe.

#ifndef KEEPSTEP_DAEMON_PLAN_ERROR_H_
#define KEEPSTEP_DAEMON_PLAN_ERROR_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::daemon {

// Of reshard::MakeSavePlan: HOLES, UNDECLARED_REPLICA, else LAYOUT.
absl::Status SavePlanError(const absl::Status& status, absl::string_view stage);

// Of reshard::MakeLoadPlan: MISSING_TENSORS, SHAPE_MISMATCH, MISSING_COVERAGE; other errors as they are.
// `hint` follows the message of a missing tensor.
absl::Status LoadPlanError(const absl::Status& status, absl::string_view hint = "");

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PLAN_ERROR_H_
