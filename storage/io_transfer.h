// What is left of one IoOp: the part of both engines that decides whether a result ends the operation.
//
// Invariant: 0 <= moved <= op.size_bytes; the next piece is [moved, moved + piece_bytes) of the operation.

#ifndef KEEPSTEP_STORAGE_IO_TRANSFER_H_
#define KEEPSTEP_STORAGE_IO_TRANSFER_H_

#include <cstddef>
#include <cstdint>

#include "storage/io_engine.h"

namespace keepstep::storage {

class IoTransfer {
 public:
  explicit IoTransfer(IoOp op);

  bool is_write() const { return op_.kind == IoOp::Kind::kWrite; }
  int fd() const { return op_.fd; }
  int rw_flags() const;  // for preadv2 and its io_uring twin
  void* piece() const;
  size_t piece_bytes() const;
  int64_t piece_offset_bytes() const;

  // Takes the result of moving the piece: bytes or a negative errno value. False: move the next piece.
  bool Advance(int64_t result);

  // Runs `done`; call once, after Advance returned true.
  void Finish();

 private:
  IoOp op_;
  size_t moved_bytes_ = 0;
  int64_t error_ = 0;
  int interruptions_ = 0;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_IO_TRANSFER_H_
