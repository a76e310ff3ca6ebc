#include "client/limits.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

int64_t* Find(Limits& limits, absl::string_view name) {
  const std::pair<absl::string_view, int64_t*> known[] = {
      {"heartbeat_ms", &limits.heartbeat_ms},
      {"progress_ms", &limits.progress_ms},
      {"watchdog_period_ms", &limits.watchdog_period_ms},
      {"open_ms", &limits.open_ms},
      {"save_ms", &limits.save_ms},
      {"register_ms", &limits.register_ms},
      {"page_ms", &limits.page_ms},
      {"rpc_ms", &limits.rpc_ms},
      {"handshake_ms", &limits.handshake_ms},
      {"backoff_first_ms", &limits.backoff_first_ms},
      {"backoff_last_ms", &limits.backoff_last_ms},
      {"futex_slice_ms", &limits.futex_slice_ms},
  };
  for (const auto& [each, value] : known) {
    if (each == name) return value;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<Limits> LimitsFromEnvironment() {
  Limits limits;
  const char* text = std::getenv("KEEPSTEP_LIMITS");
  if (text == nullptr || *text == '\0') return limits;
  for (absl::string_view setting : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(setting, absl::MaxSplits('=', 1));
    int64_t* const value = Find(limits, parts.first);
    int64_t given = 0;
    if (value == nullptr || !absl::SimpleAtoi(parts.second, &given) || given <= 0) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
          absl::StrCat("KEEPSTEP_LIMITS: '", setting,
                       "' is not a limit of client/limits.h with a positive number of milliseconds"));
    }
    *value = given;
  }
  return limits;
}

}  // namespace keepstep::client
