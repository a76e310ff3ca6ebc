// A write is one object, shared by the engine's callbacks until its last piece is done; it moves itself along
// piece by piece.

#include "storage/file_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "storage/aligned_buffer.h"
#include "storage/errno_status.h"

namespace keepstep::storage {
namespace {

constexpr int64_t kBounceBytes = int64_t{1} << 20;

}  // namespace

struct FileWriter::File {
  File(BlobPath path, UniqueFd fd, bool direct, IoEngine* engine)
      : path(std::move(path)), fd(std::move(fd)), engine(engine), direct(direct) {}

  // Later writes and the retried one go through the page cache. False if the descriptor cannot be switched.
  bool StopDirect() {
    const int flags = fcntl(fd.get(), F_GETFL);
    if (flags < 0 || fcntl(fd.get(), F_SETFL, flags & ~O_DIRECT) != 0) return false;
    direct.store(false);
    return true;
  }

  void Record(const absl::Status& status) {
    std::lock_guard<std::mutex> lock(mutex);
    first_failure.Update(status);
  }

  absl::Status Failure() {
    std::lock_guard<std::mutex> lock(mutex);
    return first_failure;
  }

  const BlobPath path;
  UniqueFd fd;
  IoEngine* const engine;
  std::atomic<bool> direct;
  std::atomic<int64_t> in_flight{0};
  std::mutex mutex;
  absl::Status first_failure ABSL_GUARDED_BY(mutex);
};

namespace {

class FileWrite : public std::enable_shared_from_this<FileWrite> {
 public:
  FileWrite(std::shared_ptr<FileWriter::File> file, int64_t offset_bytes, absl::Span<const std::byte> bytes,
            IoDone done)
      : file_(std::move(file)), offset_bytes_(offset_bytes), rest_(bytes), done_(std::move(done)) {}

  // Writes the next piece: the caller's aligned memory up to its last whole block, else a bounce buffer's
  // worth.
  void Step() {
    piece_direct_ = file_->direct.load();
    const auto rest_bytes = static_cast<int64_t>(rest_.size());
    const int64_t whole_bytes = rest_bytes / kDirectAlignment * kDirectAlignment;
    const std::byte* from = rest_.data();
    int64_t write_bytes = rest_bytes;
    piece_bytes_ = rest_bytes;
    if (piece_direct_ && whole_bytes > 0 && IsAligned(from)) {
      piece_bytes_ = write_bytes = whole_bytes;
    } else if (piece_direct_) {
      piece_bytes_ = std::min(rest_bytes, kBounceBytes);
      write_bytes = AlignUp(piece_bytes_);
      from = Bounce(write_bytes);
    }
    written_bytes_ = write_bytes;
    file_->engine->Submit({.kind = IoOp::Kind::kWrite,
                           .fd = file_->fd.get(),
                           .offset_bytes = offset_bytes_,
                           .data = const_cast<std::byte*>(from),
                           .size_bytes = static_cast<size_t>(write_bytes),
                           .done = [self = shared_from_this()](int64_t result) { self->OnResult(result); }});
  }

 private:
  const std::byte* Bounce(int64_t write_bytes) {
    if (bounce_ == nullptr) bounce_ = MakeAlignedBuffer(static_cast<size_t>(write_bytes));
    memcpy(bounce_.get(), rest_.data(), static_cast<size_t>(piece_bytes_));
    memset(bounce_.get() + piece_bytes_, 0, static_cast<size_t>(write_bytes - piece_bytes_));
    return bounce_.get();
  }

  void OnResult(int64_t result) {
    if (result == -EINVAL && piece_direct_ && file_->StopDirect()) return Step();
    if (result < 0)
      return End(ErrnoStatus(IoSide::kWrite, static_cast<int>(-result), "write", file_->path.text()));
    if (result != written_bytes_) return End(ErrnoStatus(IoSide::kWrite, EIO, "write", file_->path.text()));
    offset_bytes_ += piece_bytes_;
    rest_.remove_prefix(static_cast<size_t>(piece_bytes_));
    if (!rest_.empty()) return Step();
    End(absl::OkStatus());
  }

  void End(absl::Status status) {
    if (!status.ok()) file_->Record(status);
    // Before `done`, which may let the caller go on to Finish.
    file_->in_flight.fetch_sub(1);
    done_(std::move(status));
  }

  const std::shared_ptr<FileWriter::File> file_;
  int64_t offset_bytes_;
  absl::Span<const std::byte> rest_;
  const IoDone done_;
  AlignedBuffer bounce_;
  bool piece_direct_ = false;
  int64_t piece_bytes_ = 0;    // of the caller's
  int64_t written_bytes_ = 0;  // with padding
};

}  // namespace

FileWriter::FileWriter(BlobPath path, UniqueFd fd, bool direct, IoEngine* engine)
    : file_(std::make_shared<File>(std::move(path), std::move(fd), direct, engine)) {}

FileWriter::~FileWriter() = default;

void FileWriter::Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, IoDone done) {
  const auto size_bytes = static_cast<int64_t>(bytes.size());
  if (offset_bytes < 0 || !IsAligned(offset_bytes) ||
      size_bytes > std::numeric_limits<int64_t>::max() - kDirectAlignment - offset_bytes) {
    absl::Status status = absl::InvalidArgumentError(absl::StrCat(
        file_->path.text(), ": write of ", size_bytes, " bytes at ", offset_bytes, ", which is not aligned"));
    file_->Record(status);
    return done(std::move(status));
  }
  if (bytes.empty()) return done(absl::OkStatus());
  end_bytes_ = std::max(end_bytes_, offset_bytes + size_bytes);
  if (!IsAligned(size_bytes)) tail_end_bytes_ = std::max(tail_end_bytes_, offset_bytes + size_bytes);
  file_->in_flight.fetch_add(1);
  std::make_shared<FileWrite>(file_, offset_bytes, bytes, std::move(done))->Step();
}

absl::Status FileWriter::CheckSize(int64_t size_bytes) const {
  if (file_->in_flight.load() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(file_->path.text(), ": finished with writes in flight"));
  }
  if (tail_end_bytes_ >= 0 && tail_end_bytes_ != end_bytes_) {
    return absl::FailedPreconditionError(
        absl::StrCat(file_->path.text(), ": a write of unaligned size does not end the blob"));
  }
  if (size_bytes < 0 || size_bytes > end_bytes_ || end_bytes_ - size_bytes >= kDirectAlignment) {
    return absl::FailedPreconditionError(absl::StrCat(file_->path.text(), ": finished with ", size_bytes,
                                                      " bytes but written up to ", end_bytes_));
  }
  return absl::OkStatus();
}

absl::Status FileWriter::Finish(int64_t size_bytes) {
  if (absl::Status status = file_->Failure(); !status.ok()) return status;
  if (absl::Status status = CheckSize(size_bytes); !status.ok()) return status;
  if (ftruncate(file_->fd.get(), size_bytes) != 0) {
    return ErrnoStatus(IoSide::kWrite, errno, "ftruncate", file_->path.text());
  }
  if (fdatasync(file_->fd.get()) != 0) {
    return ErrnoStatus(IoSide::kWrite, errno, "fdatasync", file_->path.text());
  }
  if (int error = file_->fd.Close(); error != 0) {
    return ErrnoStatus(IoSide::kWrite, error, "close", file_->path.text());
  }
  return absl::OkStatus();
}

}  // namespace keepstep::storage
