// Whose a job's files are: owner and group of the job's directory, modes as the job's umask leaves them.
//
// A process with the right (root) gives what it creates away; one that runs as the owner keeps it. Where
// neither is possible nothing is created: files that the job cannot delete are worse than none.
//
//   owner   the directory's, always
//   group   the directory's; a process that runs as the owner but not in that group leaves the kernel's
//           choice (its own group, or the directory's where that is set-group-id)
//   mode    0666 or 0777 without the umask's bits; the owner's own right to read and write (and to search)
//           is never taken; a directory keeps the set-group-id bit that it inherits

#ifndef KEEPSTEP_STORAGE_OWNERSHIP_H_
#define KEEPSTEP_STORAGE_OWNERSHIP_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::storage {

inline constexpr mode_t kDefaultUmask = 022;

// Thread-safe.
class Ownership {
 public:
  // `directory` is the job's. Until a client says otherwise the umask is 022 and whatever else the
  // directory's mode denies.
  explicit Ownership(const struct stat& directory);

  uid_t uid() const { return uid_; }
  mode_t umask() const { return umask_; }
  // For what is created from now on.
  void SetUmask(mode_t umask) { umask_ = umask & 0777; }

  // Sets owner, group and mode of what this process has just created and nobody was told of.
  // PERMISSION_DENIED: it cannot.
  absl::Status Apply(int fd, absl::string_view path) const;

  // Whether `fd` is a directory that this process created and could not give away before it ended.
  bool IsLeftover(int fd) const;

 private:
  const uid_t uid_;
  const gid_t gid_;
  std::atomic<mode_t> umask_;
};

// Creates a file in `directory_fd` as files of the job are created, and removes it again. PERMISSION_DENIED,
// in a sentence that says what to do: `*reason` CANNOT_WRITE (nothing can be created there) or CANNOT_OWN
// (what is created cannot be given to the owner). Other errors of the file system come as they are.
absl::Status ProbeOwnership(int directory_fd, const Ownership& ownership, const char** reason);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_OWNERSHIP_H_
