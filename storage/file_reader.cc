// A read is one object, shared by the engine's callbacks, that goes through up to four ways: a look at its
// first page, cached, direct, buffered.
//
// The kernel answers a read that may not wait (RWF_NOWAIT) with what is cached, but it also begins to fetch
// what is not: up to the range, or the readahead of the disk. So the look is small, and the descriptor has no
// readahead.

#include "storage/file_reader.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/aligned_buffer.h"
#include "storage/errno_status.h"

namespace keepstep::storage {

struct FileReader::File {
  static constexpr int kReadsAfterMiss = 32;

  bool TryCache() {
    int skips = skip_cache.load(std::memory_order_relaxed);
    while (skips > 0) {
      if (skip_cache.compare_exchange_weak(skips, skips - 1, std::memory_order_relaxed)) return false;
    }
    return true;
  }

  const BlobPath path;
  const UniqueFd buffered;
  const UniqueFd direct;
  const int64_t size_bytes;
  IoEngine* const engine;
  std::atomic<bool> direct_works{true};
  std::atomic<int> skip_cache{0};
};

namespace {

class FileRead : public std::enable_shared_from_this<FileRead> {
 public:
  FileRead(std::shared_ptr<FileReader::File> file, int64_t offset_bytes, absl::Span<std::byte> into,
           IoDone done)
      : file_(std::move(file)), offset_bytes_(offset_bytes), into_(into), done_(std::move(done)) {}

  void Start() { file_->TryCache() ? Submit(Way::kLook) : SubmitUncached(); }

 private:
  enum class Way { kLook, kCached, kDirect, kBuffered };

  static bool IsOfCache(Way way) { return way == Way::kLook || way == Way::kCached; }

  size_t SizeOf(Way way) const {
    return way == Way::kLook ? std::min<size_t>(into_.size(), kDirectAlignment) : into_.size();
  }

  void SubmitUncached() {
    const bool direct = file_->direct.valid() && file_->direct_works.load() && IsAligned(offset_bytes_) &&
                        IsAligned(static_cast<int64_t>(into_.size())) && IsAligned(into_.data());
    Submit(direct ? Way::kDirect : Way::kBuffered);
  }

  void Submit(Way way) {
    file_->engine->Submit(
        {.kind = IoOp::Kind::kRead,
         .fd = way == Way::kDirect ? file_->direct.get() : file_->buffered.get(),
         .offset_bytes = offset_bytes_,
         .data = into_.data(),
         .size_bytes = SizeOf(way),
         .cached_only = IsOfCache(way),
         .done = [self = shared_from_this(), way](int64_t result) { self->OnResult(way, result); }});
  }

  void OnResult(Way way, int64_t result) {
    if (result == static_cast<int64_t>(into_.size())) return done_(absl::OkStatus());
    if (way == Way::kLook && result == static_cast<int64_t>(SizeOf(way))) return Submit(Way::kCached);
    if (IsOfCache(way)) return AfterMiss(result);
    if (way == Way::kDirect && result == -EINVAL) {
      file_->direct_works.store(false);
      return Submit(Way::kBuffered);
    }
    if (result < 0) {
      return done_(ErrnoStatus(IoSide::kRead, static_cast<int>(-result), "read", file_->path.text()));
    }
    done_(absl::DataLossError(absl::StrCat(file_->path.text(), ": ends at ", offset_bytes_ + result, ", had ",
                                           file_->size_bytes, " bytes when opened")));
  }

  // Whatever kept the cache from answering, the file itself says what is wrong.
  void AfterMiss(int64_t result) {
    file_->skip_cache.store(FileReader::File::kReadsAfterMiss, std::memory_order_relaxed);
    const int64_t keep_bytes = result > 0 ? result / kDirectAlignment * kDirectAlignment : 0;
    offset_bytes_ += keep_bytes;
    into_.remove_prefix(static_cast<size_t>(keep_bytes));
    SubmitUncached();
  }

  const std::shared_ptr<FileReader::File> file_;
  int64_t offset_bytes_;
  absl::Span<std::byte> into_;
  const IoDone done_;
};

}  // namespace

FileReader::FileReader(BlobPath path, UniqueFd buffered, UniqueFd direct, int64_t size_bytes,
                       IoEngine* engine)
    : file_(new File{std::move(path), std::move(buffered), std::move(direct), size_bytes, engine}) {
  posix_fadvise(file_->buffered.get(), 0, 0, POSIX_FADV_RANDOM);
}

FileReader::~FileReader() = default;

int64_t FileReader::size_bytes() const { return file_->size_bytes; }

void FileReader::Read(int64_t offset_bytes, absl::Span<std::byte> into, IoDone done) {
  const auto wanted_bytes = static_cast<int64_t>(into.size());
  if (offset_bytes < 0 || offset_bytes > file_->size_bytes ||
      wanted_bytes > file_->size_bytes - offset_bytes) {
    return done(absl::OutOfRangeError(absl::StrCat(file_->path.text(), ": read of ", wanted_bytes,
                                                   " bytes at ", offset_bytes, " of ", file_->size_bytes)));
  }
  if (into.empty()) return done(absl::OkStatus());
  std::make_shared<FileRead>(file_, offset_bytes, into, std::move(done))->Start();
}

}  // namespace keepstep::storage
