// Short and interrupted transfers go on, within limits; what ends an operation is decided here, once for both
// engines.

#include "storage/io_transfer.h"

#include <errno.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

namespace keepstep::storage {
namespace {

// Linux moves at most 2 GiB - 4 KiB per call; a power of two below keeps every piece aligned.
constexpr size_t kMaxPieceBytes = size_t{1} << 30;
constexpr int kMaxInterruptions = 100;

}  // namespace

IoTransfer::IoTransfer(IoOp op) : op_(std::move(op)) {}

int IoTransfer::rw_flags() const { return op_.cached_only ? RWF_NOWAIT : 0; }

void* IoTransfer::piece() const { return static_cast<char*>(op_.data) + moved_bytes_; }

size_t IoTransfer::piece_bytes() const { return std::min(op_.size_bytes - moved_bytes_, kMaxPieceBytes); }

int64_t IoTransfer::piece_offset_bytes() const {
  return op_.offset_bytes + static_cast<int64_t>(moved_bytes_);
}

bool IoTransfer::Advance(int64_t result) {
  if (result > 0) {
    const bool is_short = static_cast<size_t>(result) < piece_bytes();
    moved_bytes_ += static_cast<size_t>(result);
    return moved_bytes_ == op_.size_bytes || (is_short && op_.cached_only);
  }
  if (result == 0) {
    // A write that moves nothing would go on for ever; a read is at the end of the file.
    if (is_write() && op_.size_bytes > 0) error_ = -EIO;
    return true;
  }
  const bool again = result == -EINTR || (result == -EAGAIN && !op_.cached_only);
  if (again && ++interruptions_ <= kMaxInterruptions) return false;
  // What was cached before the gap counts.
  if (!(op_.cached_only && moved_bytes_ > 0)) error_ = result;
  return true;
}

void IoTransfer::Finish() { op_.done(error_ != 0 ? error_ : static_cast<int64_t>(moved_bytes_)); }

}  // namespace keepstep::storage
