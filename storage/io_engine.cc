// Chooses the engine once, at start.

#include "storage/io_engine.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/thread_engine.h"
#include "storage/uring_engine.h"

namespace keepstep::storage {
namespace {

absl::Status Check(const IoEngineOptions& options) {
  if (options.uring_threads < 1 || options.uring_threads > 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("uring_threads is ", options.uring_threads, ", not 1..16"));
  }
  if (options.uring_depth < 1 || options.uring_depth > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("uring_depth is ", options.uring_depth, ", not 1..1024"));
  }
  if (options.pool_threads < 1 || options.pool_threads > 256) {
    return absl::InvalidArgumentError(absl::StrCat("pool_threads is ", options.pool_threads, ", not 1..256"));
  }
  if (options.max_queued < 1) return absl::InvalidArgumentError("max_queued is 0");
  return absl::OkStatus();
}

IoEngineChoice Threads(const IoEngineOptions& options, std::string reason) {
  return {std::make_unique<ThreadEngine>(options.pool_threads, options.max_queued), "threads",
          std::move(reason)};
}

}  // namespace

absl::StatusOr<IoEngineChoice> MakeIoEngine(const IoEngineOptions& options) {
  if (absl::Status status = Check(options); !status.ok()) return status;
  if (options.kind == IoEngineOptions::Kind::kThreads) return Threads(options, "threads were asked for");

  absl::StatusOr<std::unique_ptr<UringEngine>> uring =
      UringEngine::Start(options.uring_threads, options.uring_depth, options.max_queued);
  if (uring.ok()) {
    std::string reason = absl::StrCat("a ring works here (", (*uring)->mode(), ")");
    return IoEngineChoice{*std::move(uring), "io_uring", std::move(reason)};
  }
  if (options.kind == IoEngineOptions::Kind::kUring) return uring.status();
  return Threads(options, absl::StrCat("io_uring does not work here: ", uring.status().message()));
}

}  // namespace keepstep::storage
