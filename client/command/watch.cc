// watch: the state of jobs as it changes, until Ctrl-C.
//
// On a terminal a block of lines is drawn again and again. Elsewhere each change is one line, and with --json
// one object. A change is one that a person would act on or wait for: a stage, a tenth of the bytes, a
// commit, a problem.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/interrupt.h"
#include "client/command/job_arg.h"
#include "client/command/job_text.h"

namespace keepstep::client {
namespace {

struct WatchOptions {
  std::string job;
  double interval_seconds = 0.5;
};

// What makes a job's state another one.
std::string Key(const v1::JobStatus& job) {
  std::string key = absl::StrCat(job.last_step(), " ", job.ranks(), "/", job.world_size());
  for (const v1::SaveInFlight& save : job.in_flight()) {
    const int64_t tenths = save.bytes_total() > 0 ? 10 * save.bytes_written() / save.bytes_total() : 0;
    absl::StrAppend(&key, " ", save.step(), save.stage(), tenths, save.stuck() ? "!" : "");
  }
  if (job.outcomes_size() > 0) {
    const v1::SaveOutcome& last = job.outcomes(job.outcomes_size() - 1);
    absl::StrAppend(&key, " ", last.step(), last.outcome());
  }
  for (const v1::Problem& problem : job.problems())
    absl::StrAppend(&key, " ", problem.kind(), problem.step());
  return key;
}

std::string Bar(const v1::SaveInFlight& save) {
  constexpr int64_t kCells = 20;
  if (save.bytes_total() <= 0) return "";
  const int64_t full = kCells * save.bytes_written() / save.bytes_total();
  return absl::StrCat("[", std::string(full, '#'), std::string(kCells - full, '.'), "] ");
}

std::string Clock() { return absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone()); }

class Watcher {
 public:
  explicit Watcher(bool json) : json_(json), draws_(!json && isatty(STDOUT_FILENO) != 0) {}

  void Show(const v1::StatusResponse& status) {
    if (draws_) {
      Draw(status);
    } else {
      PrintChanges(status);
    }
    fflush(stdout);
  }

 private:
  void Draw(const v1::StatusResponse& status) {
    if (drawn_lines_ > 0) printf("\033[%dA", drawn_lines_);
    drawn_lines_ = 0;
    const auto line = [this](const std::string& text) {
      printf("\033[K%s\n", text.c_str());
      ++drawn_lines_;
    };
    line(absl::StrCat(Clock(), "  keepstepd ", status.version(), "  pool ",
                      HumanBytes(status.pool_used_bytes()), " of ", HumanBytes(status.pool_limit_bytes()),
                      status.draining() ? "  DRAINING" : ""));
    const int64_t now_unix_ms = absl::ToUnixMillis(absl::Now());
    for (const v1::JobStatus& job : status.jobs()) {
      line(absl::StrCat(job.job(), "  last commit ", LastCommitText(job, now_unix_ms), "  ranks ",
                        job.ranks(), "/", job.world_size()));
      for (const v1::SaveInFlight& save : job.in_flight())
        line(absl::StrCat("  ", Bar(save), SaveText(save)));
      for (const v1::Problem& problem : job.problems()) line(absl::StrCat("  ", problem.sentence()));
    }
    printf("\033[J");
  }

  void PrintChanges(const v1::StatusResponse& status) {
    for (const v1::JobStatus& job : status.jobs()) {
      std::string key = Key(job);
      std::string& before = seen_[job.directory()];
      if (before == key) continue;
      before = std::move(key);
      if (json_) {
        PrintJsonLine(job);
        continue;
      }
      std::string text = absl::StrCat(Clock(), " ", job.job(), " last ",
                                      job.last_step() < 0 ? "-" : absl::StrCat(job.last_step()),
                                      ", in flight ", InFlightText(job));
      if (!job.problems().empty()) absl::StrAppend(&text, ": ", job.health());
      printf("%s\n", text.c_str());
    }
  }

  const bool json_, draws_;
  int drawn_lines_ = 0;
  std::map<std::string, std::string> seen_;  // by directory
};

int RunWatch(const Globals& globals, const WatchOptions& options) {
  auto name = ParseJob(options.job);
  if (!name.ok()) return Complain(name.status(), "keepstep watch JOB");
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::StatusRequest request;
  request.set_job(JobOf(*name));
  const Interrupt interrupt;
  const std::chrono::milliseconds period(static_cast<int64_t>(1000 * options.interval_seconds));
  Watcher watcher(globals.json);
  do {
    v1::StatusResponse response;
    const auto context = (*daemon)->Context();
    if (auto status = (*daemon)->node().Status(context.get(), request, &response); !status.ok())
      return Complain(status, "keepstep doctor");
    watcher.Show(response);
  } while (!interrupt.WaitFor(period));
  return 0;
}

}  // namespace

void AddWatch(Program& program) {
  auto options = std::make_shared<WatchOptions>();
  auto* watch = program.Add(kSee, "watch", "Progress as it happens, until Ctrl-C",
                            [&program, options] { return RunWatch(program.globals(), *options); });
  watch->add_option("JOB", options->job, "Only this job");
  watch->add_option("--interval", options->interval_seconds, "Seconds between looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
}

}  // namespace keepstep::client
