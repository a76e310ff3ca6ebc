// status: the daemon, its jobs, and what is in flight.

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/job_text.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

int RunStatus(const Globals& globals) {
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::StatusResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().Status(context.get(), {}, &response); !status.ok())
    return Complain(status);
  if (globals.json) {
    PrintJson(response);
    return 0;
  }
  printf("keepstepd %s (client %s)  up %s  pid %d  pool %s of %s%s  io %s  sessions %d%s\n",
         response.version().c_str(), kVersion, HumanSeconds(response.uptime_seconds()).c_str(),
         response.pid(), HumanBytes(response.pool_used_bytes()).c_str(),
         HumanBytes(response.pool_limit_bytes()).c_str(),
         response.pool_cached_bytes() > 0
             ? absl::StrCat(" (", HumanBytes(response.pool_cached_bytes()), " warm)").c_str()
             : "",
         response.io_engine().c_str(), response.sessions(), response.draining() ? "  DRAINING" : "");
  if (response.jobs_size() == 0) {
    printf(
        "No jobs. A trainer makes one by opening a directory; the command by: keepstep import FILE "
        "DIRECTORY/0\n");
    return 0;
  }
  const int64_t now_unix_ms = absl::ToUnixMillis(absl::Now());
  Table table({"JOB", "LAST COMMIT", "IN FLIGHT", "COPY p99", "RANKS", "FREE", "HEALTH"});
  for (const v1::JobStatus& job : response.jobs()) {
    table.Add(
        {job.job(), LastCommitText(job, now_unix_ms), InFlightText(job),
         job.copied_p99_seconds() > 0 ? absl::StrFormat("%.1f ms", 1000 * job.copied_p99_seconds()) : "-",
         absl::StrCat(job.ranks(), "/", job.world_size()),
         job.total_bytes() > 0 ? absl::StrCat(100 * job.free_bytes() / job.total_bytes(), " %") : "-",
         job.problems().empty() ? "ok" : absl::StrCat("keepstep why ", job.job())});
  }
  fputs(table.Render().c_str(), stdout);
  return 0;
}

}  // namespace

void AddStatus(Program& program) {
  program.Add(kSee, "status", "The daemon, its jobs, and what is in flight",
              [&program] { return RunStatus(program.globals()); });
}

}  // namespace keepstep::client
