// A blob of a FileStore being written: O_DIRECT where the file system takes it, the page cache where it does
// not.
//
//   1. Each Write goes to the engine: straight from the caller's memory if that is aligned, else through
//      aligned bounce buffers; the blob's unaligned tail is padded to kDirectAlignment in a bounce buffer.
//   2. EINVAL for a direct write means that this file refuses O_DIRECT after all: it is switched off for the
//      file and the write is done again.
//   3. Finish cuts the padding and the reserved space off, flushes once, closes, and checks each.
//
// The descriptor stays open until the last write is done, also when the writer is destroyed first.

#ifndef KEEPSTEP_STORAGE_FILE_WRITER_H_
#define KEEPSTEP_STORAGE_FILE_WRITER_H_

#include <cstdint>
#include <memory>

#include "storage/blob_store.h"
#include "storage/io_engine.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

class FileWriter : public BlobWriter {
 public:
  // Takes `fd`, open for writing, with O_DIRECT if `direct`. `engine` outlives the writer and its writes.
  FileWriter(BlobPath path, UniqueFd fd, bool direct, IoEngine* engine);
  ~FileWriter() override;

  void Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, IoDone done) override;
  absl::Status Finish(int64_t size_bytes) override;

  struct File;  // what the writes in flight share

 private:
  absl::Status CheckSize(int64_t size_bytes) const;

  std::shared_ptr<File> file_;
  int64_t end_bytes_ = 0;        // of the highest write
  int64_t tail_end_bytes_ = -1;  // of the write whose size is not aligned; -1: none
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_WRITER_H_
