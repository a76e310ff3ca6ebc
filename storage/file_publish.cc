// Publishing, in the order that makes it safe against a crash at any point:
//
//   1. Write a file without a name (O_TMPFILE), of which a crash leaves nothing, and fsync it. Where the file
//      system has no such files: under a random name in the record's own directory; fsync and close it,
//      checking each.
//   2. link it to the record's name, which fails if that is taken; renameat2(RENAME_NOREPLACE) where there
//      are no links. After any error, the name's inode tells whether it was done all the same (a network file
//      system may lose the reply).
//   3. Remove the random name, if there is one. A crash before this leaves it behind: List shows it, readers
//      ignore it.
//   4. fsync the directories up to the root, also when the name was taken: whoever took it may have died
//      before this.

#include "storage/file_publish.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/blob_store.h"
#include "storage/disk_full.h"
#include "storage/errno_status.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

constexpr int kMaxInterruptions = 100;
constexpr size_t kMaxCallBytes = size_t{1} << 30;

// A record that is written and flushed, and has not got its name yet.
struct Written {
  std::string temporary;  // its name for now; empty: it has none, and `fd` is all there is of it
  UniqueFd fd;            // closed if it has a name
  dev_t device = 0;
  ino_t number = 0;
};

absl::StatusOr<std::string> TemporaryName() {
  uint64_t random[2];
  if (getrandom(random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) {
    return ErrnoStatus(IoSide::kWrite, errno, "getrandom", "temporary name");
  }
  return absl::StrCat(kTemporaryPrefix, absl::Hex(random[0], absl::kZeroPad16),
                      absl::Hex(random[1], absl::kZeroPad16));
}

absl::Status WriteWhole(int fd, absl::string_view bytes, absl::string_view path) {
  for (int interruptions = 0; !bytes.empty();) {
    const ssize_t moved = write(fd, bytes.data(), std::min(bytes.size(), kMaxCallBytes));
    if (moved > 0) {
      bytes.remove_prefix(static_cast<size_t>(moved));
    } else if (moved == 0 || errno != EINTR || ++interruptions > kMaxInterruptions) {
      return ErrnoStatus(IoSide::kWrite, moved == 0 ? EIO : errno, "write", path);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Open(const FileTree& tree, int directory, const BlobPath& path, bool unnamed,
                              std::string* temporary) {
  if (unnamed) {
    absl::StatusOr<UniqueFd> fd = tree.CreateUnnamed(directory, path);
    if (!absl::IsUnimplemented(fd.status())) return fd;
  }
  absl::StatusOr<std::string> name = TemporaryName();
  if (!name.ok()) return name.status();
  *temporary = *std::move(name);
  return tree.CreateTemporary(directory, *temporary, path);
}

absl::Status Write(absl::string_view bytes, const BlobPath& path, Written* written) {
  const int fd = written->fd.get();
  if (absl::Status status = WriteWhole(fd, bytes, path.text()); !status.ok()) return status;
  if (absl::Status status = FlushFile(fd, path); !status.ok()) return status;
  struct stat about;
  if (fstat(fd, &about) != 0) return ErrnoStatus(IoSide::kWrite, errno, "fstat", path.text());
  written->device = about.st_dev;
  written->number = about.st_ino;
  if (written->temporary.empty()) return absl::OkStatus();
  const int error = written->fd.Close();
  return error == 0 ? absl::OkStatus() : ErrnoStatus(IoSide::kWrite, error, "close", path.text());
}

bool HasItsName(int directory, const std::string& leaf, const Written& written) {
  struct stat about;
  return fstatat(directory, leaf.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
         about.st_dev == written.device && about.st_ino == written.number;
}

bool HasNoLinks(int error) {
  return error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK;
}

int LinkTo(int directory, const std::string& leaf, const Written& written) {
  if (!written.temporary.empty()) {
    return linkat(directory, written.temporary.c_str(), directory, leaf.c_str(), 0) == 0 ? 0 : errno;
  }
  const std::string self = absl::StrCat("/proc/self/fd/", written.fd.get());
  return linkat(AT_FDCWD, self.c_str(), directory, leaf.c_str(), AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

// `*again`: nothing was published, and a file that has a name may do.
absl::Status Name(int directory, const BlobPath& path, const Written& written, bool* again) {
  const std::string leaf(path.Leaf());
  const char* call = "linkat";
  int error = LinkTo(directory, leaf, written);
  if (error == 0) return absl::OkStatus();
  if (!written.temporary.empty() && HasNoLinks(error)) {
    call = "renameat2";
    if (renameat2(directory, written.temporary.c_str(), directory, leaf.c_str(), RENAME_NOREPLACE) == 0) {
      return absl::OkStatus();
    }
    error = errno;
    if (error == EINVAL || error == ENOSYS) {
      return absl::FailedPreconditionError(
          absl::StrCat(path.text(),
                       ": the file system has neither links nor RENAME_NOREPLACE, so that a record "
                       "cannot be published exclusively"));
    }
  }
  if (HasItsName(directory, leaf, written)) return absl::OkStatus();
  *again = written.temporary.empty() && (HasNoLinks(error) || error == ENOENT);
  return ErrnoStatus(IoSide::kWrite, error, call, path.text());
}

absl::Status WriteAndName(const FileTree& tree, int directory, const BlobPath& path, absl::string_view bytes,
                          bool unnamed, bool* again) {
  Written written;
  absl::StatusOr<UniqueFd> fd = Open(tree, directory, path, unnamed, &written.temporary);
  absl::Status status = fd.status();
  if (status.ok()) {
    written.fd = *std::move(fd);
    status = Write(bytes, path, &written);
  }
  if (status.ok()) status = Name(directory, path, written, again);
  if (!written.temporary.empty()) unlinkat(directory, written.temporary.c_str(), 0);
  const int error = written.fd.Close();
  if (status.ok() && error != 0) return ErrnoStatus(IoSide::kWrite, error, "close", path.text());
  return status;
}

absl::Status WriteInDirectory(const FileTree& tree, const BlobPath& path, absl::string_view bytes) {
  absl::StatusOr<UniqueFd> directory = tree.MakeDirectory(path.Parent());
  if (!directory.ok()) return directory.status();
  bool again = false;
  absl::Status published = WriteAndName(tree, directory->get(), path, bytes, /*unnamed=*/true, &again);
  if (again) published = WriteAndName(tree, directory->get(), path, bytes, /*unnamed=*/false, &again);
  return published;
}

absl::StatusOr<std::string> ReadWhole(int fd, const BlobPath& path) {
  struct stat about;
  if (fstat(fd, &about) != 0) return ErrnoStatus(IoSide::kRead, errno, "fstat", path.text());
  if (!S_ISREG(about.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path.text(), ": is not a regular file"));
  }
  if (about.st_size > kMaxPublishedBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path.text(), ": ", about.st_size, " bytes are too many for a record"));
  }
  std::string bytes(static_cast<size_t>(about.st_size), '\0');
  size_t filled = 0;
  for (int interruptions = 0; filled < bytes.size();) {
    const ssize_t moved = read(fd, bytes.data() + filled, bytes.size() - filled);
    if (moved == 0) return absl::DataLossError(absl::StrCat(path.text(), ": shrank while it was read"));
    if (moved > 0) {
      filled += static_cast<size_t>(moved);
    } else if (errno != EINTR || ++interruptions > kMaxInterruptions) {
      return ErrnoStatus(IoSide::kRead, errno, "read", path.text());
    }
  }
  return bytes;
}

}  // namespace

absl::Status PublishFile(const FileTree& tree, const BlobPath& path, absl::string_view bytes,
                         Reserve* reserve) {
  if (path.is_root()) return absl::InvalidArgumentError("a record needs a name");
  if (static_cast<int64_t>(bytes.size()) > kMaxPublishedBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path.text(), ": ", bytes.size(), " bytes are too many for a record"));
  }
  absl::Status published = WriteInDirectory(tree, path, bytes);
  // What failed has no name, and what is written now is another file: no flush is tried twice.
  if (IsDiskFull(published) && reserve != nullptr && reserve->GiveUp())
    published = WriteInDirectory(tree, path, bytes);
  if (!published.ok() && published.code() != absl::StatusCode::kAlreadyExists) return published;
  absl::Status flushed = tree.SyncUpwards(path.Parent());
  if (flushed.ok() && reserve != nullptr) reserve->Keep();
  return flushed.ok() ? published : flushed;
}

absl::StatusOr<std::string> ReadPublishedFile(const FileTree& tree, const BlobPath& path) {
  // O_NONBLOCK: a fifo under the record's name must not hang the reader.
  absl::StatusOr<UniqueFd> fd = tree.OpenAt(path, O_RDONLY | O_NONBLOCK, IoSide::kRead);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = tree.SyncUpwards(path.Parent()); !status.ok()) return status;
  return ReadWhole(fd->get(), path);
}

}  // namespace keepstep::storage
