#include "daemon/job_facts.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <climits>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "storage/checkpoint_reader.h"

namespace keepstep::daemon {
namespace {

std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

// The letter after the command's name, which may hold anything but ends at the last ')'. 0: no such process.
char ProcessState(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= text.size() ? '\0' : text[name_end + 2];
}

}  // namespace

JobFacts Glance(Job& job) {
  JobFacts facts{.job = job.label(), .directory = job.identity().path, .view = job.View()};
  facts.host = HostName();
  facts.now_unix_ms = absl::ToUnixMillis(absl::Now());
  facts.last_step = facts.view.logic.last_committed_step;
  for (const auto& [rank, seen] : facts.view.ranks) {
    if (seen.state == RankView::State::kOpen) facts.process_states[rank] = ProcessState(seen.pid);
  }
  struct statvfs info {};
  if (statvfs(facts.directory.c_str(), &info) == 0) {
    facts.free_bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
    facts.total_bytes = static_cast<int64_t>(info.f_blocks) * static_cast<int64_t>(info.f_frsize);
  }
  return facts;
}

JobFacts Observe(Job& job) {
  JobFacts facts = Glance(job);
  auto newest = storage::ResolveLatest(*job.store());
  if (!newest.ok()) {
    facts.storage_error = std::string(newest.status().message());
  } else if (newest->has_value()) {
    facts.last_step = (*newest)->step();
    facts.last_commit_unix_ms = (*newest)->time_unix_ms();
  } else {
    facts.last_step = -1;
  }
  return facts;
}

JobFacts DetachedFacts(const std::string& directory) {
  JobFacts facts{.job = directory.substr(directory.rfind('/') + 1), .directory = directory, .detached = true};
  facts.now_unix_ms = absl::ToUnixMillis(absl::Now());
  return facts;
}

}  // namespace keepstep::daemon
