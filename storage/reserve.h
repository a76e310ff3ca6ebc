// A file that takes room for nothing, so that it can be given up for what ends a full disk: the records that
// decide a save, mark a deletion or let the next run in, and the catalog's own files.
//
// The file means nothing to anybody: whoever needs the room may remove it, from any process, and a crash
// leaves it or not. It is made again when a later write finds room. Where the file system cannot reserve
// (fallocate) there is none.

#ifndef KEEPSTEP_STORAGE_RESERVE_H_
#define KEEPSTEP_STORAGE_RESERVE_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>

#include "storage/blob_path.h"
#include "storage/file_tree.h"

namespace keepstep::storage {

// Thread-safe; calls block for the disk.
class Reserve {
 public:
  // `tree` outlives this.
  Reserve(const FileTree* tree, BlobPath path, int64_t size_bytes)
      : tree_(*tree), path_(std::move(path)), size_bytes_(size_bytes) {}

  // Makes the file unless it is there; without room for all of it, leaves none. Costs nothing once it is
  // there.
  void Keep();

  // Removes the file; whether there was one, so that what failed for want of room may be tried again.
  bool GiveUp();

 private:
  bool Make() const;

  const FileTree& tree_;
  const BlobPath path_;
  const int64_t size_bytes_;
  std::mutex mutex_;
  std::atomic<bool> kept_{false};
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_RESERVE_H_
