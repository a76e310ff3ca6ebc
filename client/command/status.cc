// status, top: the daemon, its jobs, and what is in flight.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/interrupt.h"
#include "client/command/job_text.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

std::string StatusText(const v1::StatusResponse& status) {
  std::string out = absl::StrFormat(
      "keepstepd %s (client %s)  up %s  pid %d  pool %s of %s%s  io %s  sessions %d%s\n", status.version(),
      kVersion, HumanSeconds(status.uptime_seconds()), status.pid(), HumanBytes(status.pool_used_bytes()),
      HumanBytes(status.pool_limit_bytes()),
      status.pool_cached_bytes() > 0 ? absl::StrCat(" (", HumanBytes(status.pool_cached_bytes()), " warm)")
                                     : "",
      status.io_engine(), status.sessions(), status.draining() ? "  DRAINING" : "");
  if (status.jobs_size() == 0) {
    return absl::StrCat(
        out,
        "No jobs. A trainer makes one by opening a directory; the command by: keepstep import FILE "
        "DIRECTORY/0\n");
  }
  const int64_t now_unix_ms = absl::ToUnixMillis(absl::Now());
  Table table({"JOB", "LAST COMMIT", "IN FLIGHT", "COPY p99", "RANKS", "FREE", "HEALTH"});
  for (const v1::JobStatus& job : status.jobs()) {
    table.Add(
        {job.job(), LastCommitText(job, now_unix_ms), InFlightText(job),
         job.copied_p99_seconds() > 0 ? absl::StrFormat("%.1f ms", 1000 * job.copied_p99_seconds()) : "-",
         absl::StrCat(job.ranks(), "/", job.world_size()),
         job.total_bytes() > 0 ? absl::StrCat(100 * job.free_bytes() / job.total_bytes(), " %") : "-",
         job.problems().empty() ? "ok" : absl::StrCat("keepstep why ", job.job())});
  }
  return out + table.Render();
}

int RunStatus(const Globals& globals) {
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::StatusResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().Status(context.get(), {}, &response); !status.ok())
    return Complain(status);
  if (globals.json) {
    PrintJson(response);
  } else {
    fputs(StatusText(response).c_str(), stdout);
  }
  return 0;
}

// The table of status, drawn again and again on a terminal; elsewhere printed each time.
int RunTop(const Globals& globals, double interval_seconds) {
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  const Interrupt interrupt;
  const bool draws = isatty(STDOUT_FILENO) != 0;
  int64_t lines = 0;
  do {
    v1::StatusResponse response;
    const auto context = (*daemon)->Context();
    if (auto status = (*daemon)->node().Status(context.get(), {}, &response); !status.ok())
      return Complain(status);
    if (globals.json) {
      PrintJsonLine(response);
    } else {
      std::string text = StatusText(response);
      if (draws) {
        if (lines > 0) printf("\033[%ldA", static_cast<long>(lines));
        lines = std::count(text.begin(), text.end(), '\n');
        text = absl::StrReplaceAll(text, {{"\n", "\033[K\n"}}) + "\033[J";
      }
      fputs(text.c_str(), stdout);
    }
    fflush(stdout);
  } while (!interrupt.WaitFor(std::chrono::milliseconds(static_cast<int64_t>(1000 * interval_seconds))));
  return 0;
}

}  // namespace

void AddStatus(Program& program) {
  program.Add(kSee, "status", "The daemon, its jobs, and what is in flight",
              [&program] { return RunStatus(program.globals()); });
  auto interval = std::make_shared<double>(1);
  auto* top = program.Add(kSee, "top", "The same table, live, until Ctrl-C",
                          [&program, interval] { return RunTop(program.globals(), *interval); });
  top->add_option("--interval", *interval, "Seconds between looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
}

}  // namespace keepstep::client
