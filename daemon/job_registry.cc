#include "daemon/job_registry.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/metered_store.h"
#include "reshard/tensor.h"
#include "storage/attempt.h"
#include "storage/errno_status.h"
#include "storage/file_store.h"
#include "storage/read_only_store.h"

namespace keepstep::daemon {
namespace {

absl::Status NoSuchJob(absl::string_view name) {
  return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_JOB",
                   absl::StrCat("There is no job '", name.substr(0, 200),
                                "' here. `keepstep ls` shows those that you can see."));
}

std::string Resolved(int directory_fd) {
  char path[PATH_MAX];
  const ssize_t size = readlink(absl::StrCat("/proc/self/fd/", directory_fd).c_str(), path, sizeof(path));
  return size <= 0 ? std::string() : std::string(path, size);
}

storage::UniqueFd OpenDirectory(const std::string& path) {
  return storage::UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
}

std::string LastPart(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A job's directory that was just made, as if the caller had made it. A daemon without the right keeps it.
void GiveTo(const ClientSession& session, const std::string& path) {
  const storage::UniqueFd made = OpenDirectory(path);
  struct stat info;
  if (!made.valid() || fstat(made.get(), &info) != 0 || info.st_uid != geteuid()) return;
  if (info.st_uid != session.peer().uid && fchown(made.get(), session.peer().uid, session.peer().gid) != 0)
    return;
  const mode_t umask = session.umask().value_or(storage::kDefaultUmask);
  if (fchmod(made.get(), (0777 & ~umask) | 0700 | (info.st_mode & S_ISGID)) != 0) return;  // then 0755 stays
}

// What can be shown and sent to anyone: a name that is not UTF-8 would spoil every listing that it appears
// in.
bool IsJobName(absl::string_view name) {
  return name.size() <= 255 && name != "." && name != ".." && !absl::StrContains(name, "/") &&
         reshard::ValidateTensorName(name).ok();
}

absl::Status BadJobName() {
  return MakeError(absl::StatusCode::kInvalidArgument, "JOB_NAME",
                   "A job's name is one path component of 1..255 bytes of UTF-8 without control characters.");
}

}  // namespace

JobRegistry::JobRegistry(const JobServices& services, storage::IoEngine* engine,
                         std::vector<std::string> roots)
    : services_(services), engine_(engine) {
  for (const std::string& root : roots) {
    char path[PATH_MAX];
    if (realpath(root.c_str(), path) != nullptr) roots_.emplace_back(path);
  }
}

void JobRegistry::OpenKnown() {
  for (const std::string& root : roots_) {
    DIR* listing = opendir(root.c_str());
    if (listing == nullptr) continue;
    while (const dirent* entry = readdir(listing)) {
      if (!IsJobName(entry->d_name)) continue;
      const std::string path = absl::StrCat(root, "/", entry->d_name);
      struct stat info;
      if (stat(absl::StrCat(path, "/", storage::kEpochsDir).c_str(), &info) != 0) continue;
      auto job = Attach(OpenDirectory(path));
      if (!job.ok())
        services_.log->Warn("job not opened",
                            {{"job", path}, {"error", std::string(job.status().message())}});
    }
    closedir(listing);
  }
  auto journal = services_.catalog->Journal();
  if (!journal.ok()) return;
  for (const auto& row : *journal) {
    if (row.collected) continue;  // nothing waits for it
    storage::UniqueFd directory = OpenDirectory(row.job);
    struct stat info;
    const bool ours = directory.valid() && fstat(directory.get(), &info) == 0 &&
                      (info.st_uid == geteuid() || geteuid() == 0);
    if (ours && Attach(std::move(directory)).ok()) continue;
    std::lock_guard lock(mutex_);
    if (detached_.insert(row.job).second)
      services_.log->Warn("job detached: its saves wait for a client", {{"job", row.job}});
  }
}

absl::StatusOr<std::shared_ptr<Job>> JobRegistry::Attach(storage::UniqueFd directory) {
  struct stat info;
  if (!directory.valid()) {
    return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_JOB",
                     absl::StrCat("The directory cannot be opened: ", strerror(errno)));
  }
  if (fstat(directory.get(), &info) != 0)  // it may answer when asked again
    return storage::ErrnoStatus(storage::IoSide::kRead, errno, "fstat", "the job's directory");
  std::lock_guard lock(mutex_);
  const auto key = std::make_pair(info.st_dev, info.st_ino);
  if (auto found = jobs_.find(key); found != jobs_.end()) return found->second;
  ForgetDeleted();
  if (jobs_.size() >= kMaxJobs) {
    return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_JOBS",
                     absl::StrCat("The daemon serves ", kMaxJobs, " jobs already."));
  }
  JobIdentity identity{
      .path = Resolved(directory.get()), .owner = info.st_uid, .device = info.st_dev, .inode = info.st_ino};
  identity.label = LastPart(identity.path);
  if (!IsJobName(identity.label) || !reshard::ValidateText("a path", identity.path).ok()) return BadJobName();
  identity.under_root = UnderRoot(identity.path);
  auto ownership = std::make_shared<storage::Ownership>(info);
  auto store = storage::FileStore::Start(std::move(directory), engine_,
                                         {.ownership = ownership,
                                          .reserve_path = *storage::BlobPath::Parse(storage::kReservePath),
                                          .reserve_bytes = storage::kReserveBytes});
  if (!store.ok()) return store.status();
  stores_[key] = store->get();  // the job keeps it
  std::shared_ptr<storage::BlobStore> kept = *std::move(store);
  if (services_.read_only) kept = std::make_shared<storage::ReadOnlyStore>(std::move(kept));
  if (services_.metrics != nullptr) kept = std::make_shared<MeteredStore>(std::move(kept), services_.metrics);
  auto job = Job::Start(services_, identity, std::move(kept));
  jobs_[key] = job;
  ownership_[key] = std::move(ownership);
  detached_.erase(identity.path);
  return job;
}

void JobRegistry::ForgetDeleted() {
  for (auto it = jobs_.begin(); it != jobs_.end();) {
    if (!it->second->unused() || !stores_.at(it->first)->IsDeleted()) {
      ++it;
      continue;
    }
    services_.log->Info("job forgotten: its directory is deleted", {{"job", it->second->identity().path}});
    it->second->LetGo();
    ownership_.erase(it->first);
    stores_.erase(it->first);
    it = jobs_.erase(it);
  }
}

absl::StatusOr<std::shared_ptr<Job>> JobRegistry::Of(const ClientSession& session) {
  if (session.directory_fd() < 0) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "NO_DIRECTORY",
        "The session handed no directory over. Name the job, or open the session with its directory.");
  }
  auto job = Attach(storage::UniqueFd(fcntl(session.directory_fd(), F_DUPFD_CLOEXEC, 3)));
  if (job.ok() && !MaySee(**job, &session)) return NoSuchJob(session.directory());
  return job;
}

absl::Status JobRegistry::PrepareWriting(const Job& job, const ClientSession& session) {
  std::shared_ptr<storage::Ownership> ownership;
  {
    std::lock_guard lock(mutex_);
    const auto found = ownership_.find({job.identity().device, job.identity().inode});
    if (found == ownership_.end()) return absl::OkStatus();  // the daemon stops
    ownership = found->second;
  }
  if (session.umask().has_value()) ownership->SetUmask(*session.umask());
  const char* reason = "";
  const absl::Status status = storage::ProbeOwnership(session.directory_fd(), *ownership, &reason);
  if (!absl::IsPermissionDenied(status)) return status;
  return MakeError(status.code(), reason, status.message(), "open");
}

absl::StatusOr<std::shared_ptr<Job>> JobRegistry::Find(absl::string_view name, const ClientSession* session) {
  if (name.empty()) {
    if (session == nullptr) {
      return MakeError(absl::StatusCode::kInvalidArgument, "NO_JOB",
                       "Name a job: this call carries no session.");
    }
    return Of(*session);
  }
  if (session != nullptr && session->directory_fd() >= 0 && session->directory() == name) return Of(*session);
  std::shared_ptr<Job> found;
  for (const auto& job : VisibleTo(session)) {
    if (job->identity().path == name) return job;
    if (job->label() != name) continue;
    if (found != nullptr) {
      return MakeError(absl::StatusCode::kInvalidArgument, "AMBIGUOUS_JOB",
                       absl::StrCat("Two jobs are called '", name, "'. Give the directory."));
    }
    found = job;
  }
  if (found != nullptr) return found;
  for (const std::string& root : roots_) {
    std::string path(name);
    if (absl::StartsWith(name, absl::StrCat(root, "/"))) path = std::string(name.substr(root.size() + 1));
    if (!IsJobName(path)) continue;
    auto job = Attach(OpenDirectory(absl::StrCat(root, "/", path)));
    if (job.ok() && MaySee(**job, session)) return job;
  }
  return NoSuchJob(name);
}

absl::StatusOr<std::shared_ptr<Job>> JobRegistry::FindOrMake(absl::string_view name,
                                                             const ClientSession* session) {
  auto found = Find(name, session);
  if (found.ok() || !absl::IsNotFound(found.status()) || roots_.empty()) return found;
  if (!IsJobName(name)) return BadJobName();
  const std::string path = absl::StrCat(roots_.front(), "/", name);
  const bool made_here = mkdir(path.c_str(), 0755) == 0;
  if (!made_here && errno != EEXIST) {
    return MakeError(absl::StatusCode::kPermissionDenied, "CANNOT_MAKE_JOB",
                     absl::StrCat("mkdir ", path, ": ", strerror(errno)));
  }
  if (made_here && session != nullptr) GiveTo(*session, path);
  return Find(name, session);
}

bool JobRegistry::MaySee(const Job& job, const ClientSession* session) const {
  if (services_.read_only) return true;  // it runs as the caller, and reads what the caller can read
  if (session == nullptr) return job.identity().under_root;
  return session->peer().uid == 0 || session->peer().uid == job.identity().owner;
}

bool JobRegistry::UnderRoot(const std::string& path) const {
  for (const std::string& root : roots_) {
    if (absl::StartsWith(path, absl::StrCat(root, "/"))) return true;
  }
  return false;
}

std::vector<std::shared_ptr<Job>> JobRegistry::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Job>> all;
  for (const auto& [key, job] : jobs_) all.push_back(job);
  return all;
}

std::vector<std::shared_ptr<Job>> JobRegistry::VisibleTo(const ClientSession* session) const {
  std::vector<std::shared_ptr<Job>> visible;
  for (auto& job : All()) {
    if (MaySee(*job, session)) visible.push_back(std::move(job));
  }
  return visible;
}

std::vector<std::string> JobRegistry::Detached() const {
  std::lock_guard lock(mutex_);
  return {detached_.begin(), detached_.end()};
}

void JobRegistry::SetLimits(const Limits& limits, int64_t quota_bytes) {
  std::lock_guard lock(mutex_);
  services_.limits = limits;
  services_.quota_bytes = quota_bytes;
  for (const auto& [key, job] : jobs_) job->SetLimits(limits, quota_bytes);
}

void JobRegistry::StopAll() {
  std::map<std::pair<dev_t, ino_t>, std::shared_ptr<Job>> jobs;
  {
    std::lock_guard lock(mutex_);
    jobs.swap(jobs_);
    ownership_.clear();
    stores_.clear();
  }
  for (auto& [key, job] : jobs) job->Stop();
}

}  // namespace keepstep::daemon
