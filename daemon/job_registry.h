// The jobs that this daemon knows, each once: a directory's identity is its device and inode, whatever path
// leads there.
//
// Who may see a job: its owner (of the directory) and root; a caller without a session, only jobs beneath
// listed roots. To all others a job looks missing. At start: every job beneath the roots, and those in the
// journal whose directory this uid can open; the others stay detached until a client hands a descriptor over.
//
// A job whose directory was deleted is forgotten once nobody uses it, when further jobs come: whoever keeps a
// directory for each checkpoint would fill the table, and each job costs a descriptor and a look every tick.
//
// Thread-safe. Calls block for directory look-ups.

#ifndef KEEPSTEP_DAEMON_JOB_REGISTRY_H_
#define KEEPSTEP_DAEMON_JOB_REGISTRY_H_

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/job.h"
#include "storage/file_store.h"
#include "storage/io_engine.h"
#include "storage/ownership.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

inline constexpr size_t kMaxJobs = 4096;

class JobRegistry {
 public:
  // `engine` and what `services` point to outlive the registry and its jobs.
  JobRegistry(const JobServices& services, storage::IoEngine* engine, std::vector<std::string> roots);

  // Opens what the roots and the journal name. Failures are logged: one bad directory must not stop the rest.
  void OpenKnown();

  // The job of the session's directory, started if it is new. FAILED_PRECONDITION: the session has none, or
  // the store cannot hold checkpoints; NOT_FOUND: not this uid's.
  absl::StatusOr<std::shared_ptr<Job>> Of(const ClientSession& session);

  // Before a trainer joins: files of its job get the owner, group and umask that they should have, as this
  // very moment shows; `session` says the umask. PERMISSION_DENIED: CANNOT_WRITE or CANNOT_OWN, with what to
  // do.
  absl::Status PrepareWriting(const Job& job, const ClientSession& session);

  // By label or directory; empty: the session's. `session` may be null.
  absl::StatusOr<std::shared_ptr<Job>> Find(absl::string_view name, const ClientSession* session);

  // As Find, but makes `<root>/<name>` of the first listed root if there is no such job.
  absl::StatusOr<std::shared_ptr<Job>> FindOrMake(absl::string_view name, const ClientSession* session);

  std::vector<std::shared_ptr<Job>> All() const;
  std::vector<std::shared_ptr<Job>> VisibleTo(const ClientSession* session) const;
  std::vector<std::string> Detached() const;  // directories that the journal names
  const std::vector<std::string>& roots() const { return roots_; }

  // Of all jobs, and of those to come.
  void SetLimits(const Limits& limits, int64_t quota_bytes);

  // Cancels all I/O of all jobs and lets go of them; blocks until it has stopped.
  void StopAll();

 private:
  absl::StatusOr<std::shared_ptr<Job>> Attach(storage::UniqueFd directory);
  void ForgetDeleted();  // mutex_ is held
  bool MaySee(const Job& job, const ClientSession* session) const;
  bool UnderRoot(const std::string& path) const;

  JobServices services_;  // its limits and quota change under mutex_
  storage::IoEngine* const engine_;
  std::vector<std::string> roots_;  // resolved

  mutable std::mutex mutex_;
  std::map<std::pair<dev_t, ino_t>, std::shared_ptr<Job>> jobs_;
  std::map<std::pair<dev_t, ino_t>, std::shared_ptr<storage::Ownership>> ownership_;  // of the same jobs
  std::map<std::pair<dev_t, ino_t>, const storage::FileStore*> stores_;                // of the same jobs
  std::set<std::string> detached_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_JOB_REGISTRY_H_
