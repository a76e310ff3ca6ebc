// A blob of a FileStore being read.
//
//   1. What lies in the page cache is taken from there (preadv2 with RWF_NOWAIT): a blob read shortly before,
//      or by another process. One page is looked at first, since looking fetches.
//   2. The rest goes by O_DIRECT if the caller's memory and range are aligned and the file system takes it,
//      else buffered.
//
// A miss in 1 makes the next reads skip it for a while: a cold blob should not pay for looking. The
// descriptors stay open until the last read is done, also when the reader is destroyed first.

#ifndef KEEPSTEP_STORAGE_FILE_READER_H_
#define KEEPSTEP_STORAGE_FILE_READER_H_

#include <cstdint>
#include <memory>

#include "storage/blob_store.h"
#include "storage/io_engine.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

class FileReader : public BlobReader {
 public:
  // Takes both descriptors of one regular file: `direct` may be invalid. `engine` outlives the reader and its
  // reads.
  FileReader(BlobPath path, UniqueFd buffered, UniqueFd direct, int64_t size_bytes, IoEngine* engine);
  ~FileReader() override;

  int64_t size_bytes() const override;
  void Read(int64_t offset_bytes, absl::Span<std::byte> into, IoDone done) override;

  struct File;  // what the reads in flight share

 private:
  std::shared_ptr<File> file_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_READER_H_
