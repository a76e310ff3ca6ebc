#include "daemon/plan_error.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {

absl::Status SavePlanError(const absl::Status& status, absl::string_view stage) {
  const char* reason = absl::StrContains(status.message(), "no rank holds")        ? "HOLES"
                       : absl::StrContains(status.message(), "undeclared replica") ? "UNDECLARED_REPLICA"
                                                                                   : "LAYOUT";
  return MakeError(status.code(), reason, status.message(), stage);
}

absl::Status LoadPlanError(const absl::Status& status, absl::string_view hint) {
  const absl::string_view message = status.message();
  if (absl::IsNotFound(status))
    return MakeError(status.code(), "MISSING_TENSORS", absl::StrCat(message, hint), "plan");
  if (!absl::IsFailedPrecondition(status)) return status;
  const bool holes = absl::StrContains(message, "hole") || absl::StrContains(message, "cover") ||
                     absl::StrContains(message, "missing");
  const bool dtype = absl::StrContains(message, " is stored as ");
  return MakeError(status.code(), holes ? "MISSING_COVERAGE" : "SHAPE_MISMATCH",
                   absl::StrCat(message, dtype ? "; convert_dtype=True converts" : ""), "plan");
}

}  // namespace keepstep::daemon
