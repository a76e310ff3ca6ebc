// Opens, lists and deletes; writing, reading and publishing have files of their own.

#include "storage/file_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/errno_status.h"
#include "storage/file_publish.h"
#include "storage/file_reader.h"
#include "storage/file_writer.h"

namespace keepstep::storage {
namespace {

constexpr int kMaxInterruptions = 100;

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

// Where the file system takes O_DIRECT. Set after the open: an open that fails for it may have made the file.
bool SetDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

absl::Status Allocate(int fd, int64_t size_bytes, const BlobPath& path) {
  if (size_bytes <= 0) return absl::OkStatus();
  int error = 0;
  for (int tries = 0; tries <= kMaxInterruptions; ++tries) {
    error = fallocate(fd, 0, 0, size_bytes) == 0 ? 0 : errno;
    if (error != EINTR) break;
  }
  if (error == 0 || error == EOPNOTSUPP || error == ENOSYS) return absl::OkStatus();
  return ErrnoStatus(IoSide::kWrite, error, "fallocate", path.text());
}

absl::StatusOr<struct stat> StatRegular(int fd, const BlobPath& path) {
  struct stat about;
  if (fstat(fd, &about) != 0) return ErrnoStatus(IoSide::kRead, errno, "fstat", path.text());
  if (!S_ISREG(about.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path.text(), ": is not a regular file"));
  }
  return about;
}

// Adds the entry unless it is one that no blob path can name or neither file nor directory: not this store's.
absl::Status AddEntry(int directory_fd, const BlobPath& directory, const char* leaf,
                      std::vector<BlobInfo>* entries) {
  absl::StatusOr<BlobPath> path = directory.Join(leaf);
  if (!path.ok()) return absl::OkStatus();
  struct stat about;
  if (fstatat(directory_fd, leaf, &about, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(IoSide::kRead, errno, "fstatat", path->text());
  }
  const bool is_directory = S_ISDIR(about.st_mode);
  if (!is_directory && !S_ISREG(about.st_mode)) return absl::OkStatus();
  if (entries->size() >= kMaxListEntries) {
    return absl::ResourceExhaustedError(
        absl::StrCat(directory.text(), ": more than ", kMaxListEntries, " entries"));
  }
  entries->push_back({*std::move(path), is_directory ? 0 : int64_t{about.st_size}, is_directory});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Start(UniqueFd root, IoEngine* engine,
                                                            FileStoreOptions options) {
  std::unique_ptr<FileStore> store(new FileStore(std::move(root), engine, options));
  if (absl::StatusOr<UniqueFd> opened = store->tree_.OpenDirectory(BlobPath::Root(), IoSide::kRead);
      !opened.ok()) {
    return opened.status();
  }
  return store;
}

FileStore::FileStore(UniqueFd root, IoEngine* engine, FileStoreOptions options)
    : tree_(std::move(root), options.ownership),
      engine_(engine),
      options_(options),
      reserve_(&tree_, options.reserve_path, options.reserve_bytes) {}

absl::StatusOr<std::unique_ptr<BlobWriter>> FileStore::Create(const BlobPath& path, int64_t size_hint_bytes) {
  if (path.is_root()) return absl::InvalidArgumentError("a blob needs a name");
  absl::StatusOr<UniqueFd> fd = tree_.CreateFile(path);
  if (!fd.ok()) return fd.status();
  if (absl::Status status = Allocate(fd->get(), size_hint_bytes, path); !status.ok()) {
    // Nobody has seen it, and it may hold the space that others need; the reservation's error is the one to
    // report.
    tree_.Remove(path).IgnoreError();
    return status;
  }
  const bool direct = options_.direct && SetDirect(fd->get());
  return std::unique_ptr<BlobWriter>(std::make_unique<FileWriter>(path, *std::move(fd), direct, engine_));
}

absl::StatusOr<std::unique_ptr<BlobReader>> FileStore::Open(const BlobPath& path) {
  // O_NONBLOCK: a fifo under the blob's name must not hang the reader.
  absl::StatusOr<UniqueFd> buffered = tree_.OpenAt(path, O_RDONLY | O_NONBLOCK, IoSide::kRead);
  if (!buffered.ok()) return buffered.status();
  absl::StatusOr<struct stat> about = StatRegular(buffered->get(), path);
  if (!about.ok()) return about.status();
  // With O_NONBLOCK, io_uring would answer EAGAIN instead of waiting on some file systems.
  if (fcntl(buffered->get(), F_SETFL, 0) != 0) {
    return ErrnoStatus(IoSide::kRead, errno, "fcntl", path.text());
  }
  UniqueFd direct;
  if (options_.direct) {
    absl::StatusOr<UniqueFd> second = tree_.OpenAt(path, O_RDONLY | O_NONBLOCK, IoSide::kRead);
    struct stat again;
    const bool same_file = second.ok() && fstat(second->get(), &again) == 0 &&
                           again.st_ino == about->st_ino && again.st_dev == about->st_dev;
    if (same_file && fcntl(second->get(), F_SETFL, O_DIRECT) == 0) direct = *std::move(second);
  }
  return std::unique_ptr<BlobReader>(
      std::make_unique<FileReader>(path, *std::move(buffered), std::move(direct), about->st_size, engine_));
}

absl::Status FileStore::PublishExclusive(const BlobPath& path, absl::string_view bytes) {
  return PublishFile(tree_, path, bytes, options_.reserve_bytes > 0 ? &reserve_ : nullptr);
}

absl::StatusOr<std::string> FileStore::ReadPublished(const BlobPath& path) {
  return ReadPublishedFile(tree_, path);
}

absl::Status FileStore::SyncTree(const BlobPath& directory) { return tree_.SyncUpwards(directory); }

absl::StatusOr<std::vector<BlobInfo>> FileStore::List(const BlobPath& directory) {
  std::vector<BlobInfo> entries;
  absl::StatusOr<UniqueFd> fd = tree_.OpenDirectory(directory, IoSide::kRead);
  if (fd.status().code() == absl::StatusCode::kNotFound) return entries;
  if (!fd.ok()) return fd.status();
  // A duplicate, because fdopendir takes its descriptor.
  UniqueFd duplicate(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
  if (!duplicate.valid()) return ErrnoStatus(IoSide::kRead, errno, "dup", directory.text());
  std::unique_ptr<DIR, CloseDirectory> stream(fdopendir(duplicate.get()));
  if (stream == nullptr) return ErrnoStatus(IoSide::kRead, errno, "fdopendir", directory.text());
  duplicate.Release();

  while (true) {
    errno = 0;
    const dirent* entry = readdir(stream.get());
    if (entry == nullptr) break;
    if (absl::Status status = AddEntry(fd->get(), directory, entry->d_name, &entries); !status.ok())
      return status;
  }
  if (errno != 0) return ErrnoStatus(IoSide::kRead, errno, "readdir", directory.text());
  std::sort(entries.begin(), entries.end(),
            [](const BlobInfo& a, const BlobInfo& b) { return a.path < b.path; });
  return entries;
}

absl::Status FileStore::Delete(const BlobPath& path) { return tree_.Remove(path); }

absl::StatusOr<int64_t> FileStore::SpaceAvailable() {
  absl::StatusOr<UniqueFd> root = tree_.OpenDirectory(BlobPath::Root(), IoSide::kRead);
  if (!root.ok()) return root.status();
  struct statvfs about;
  if (fstatvfs(root->get(), &about) != 0) return ErrnoStatus(IoSide::kRead, errno, "fstatvfs", "");
  const auto blocks = static_cast<uint64_t>(about.f_bavail);
  const auto block_bytes = static_cast<uint64_t>(about.f_frsize);
  const auto most = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (block_bytes != 0 && blocks > most / block_bytes) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(blocks * block_bytes);
}

}  // namespace keepstep::storage
