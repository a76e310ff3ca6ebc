// A BlobStore keeps opaque, immutable objects by path: a file system, memory, an object store.
//
// Invariant: a path, once published, never changes its bytes, and no path is ever created twice without a
// Delete between. Everything the checkpoint protocol promises (storage/commit.h) rests on this and on
// PublishExclusive being exclusive.
//
// Blobs live in directories, which Create and PublishExclusive make as needed. A blob and the directories
// above it survive a power loss once Finish and then SyncTree of its directory returned OK; a published
// record once PublishExclusive returned.
//
// Errors, beyond those named at each method: UNAVAILABLE (a read may be tried again), ABORTED (a write or
// flush failed: the blob is lost, write another one), RESOURCE_EXHAUSTED (no space, quota, descriptors),
// PERMISSION_DENIED, DATA_LOSS (a blob shrank), FAILED_PRECONDITION (the store cannot do what the protocol
// needs, or a blob stands where a directory is needed).

#ifndef KEEPSTEP_STORAGE_BLOB_STORE_H_
#define KEEPSTEP_STORAGE_BLOB_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/blob_path.h"

namespace keepstep::storage {

// Offsets, sizes and memory that are multiples of this reach the device without a copy.
inline constexpr int64_t kDirectAlignment = 4096;
inline constexpr int64_t kMaxPublishedBytes = int64_t{256} << 20;
inline constexpr size_t kMaxListEntries = size_t{1} << 20;
inline constexpr int kMaxTreeDepth = 16;
// Leaves that begin so are left by publishers that died; readers ignore them, DeleteTree removes them.
inline constexpr char kTemporaryPrefix[] = ".keepstep-tmp-";

// Runs exactly once, on an engine's thread or within the call: it must not block, nor take a lock that its
// caller holds.
using IoDone = std::function<void(absl::Status)>;

struct BlobInfo {
  BlobPath path;
  int64_t size_bytes;  // 0 for a directory
  bool is_directory;
};

// One blob being written. Until Finish its size and bytes are undefined to readers. Used by one thread at a
// time; `done` may run on any. The destructor without Finish abandons the blob: what was written stays,
// incomplete, until someone deletes it.
class BlobWriter {
 public:
  virtual ~BlobWriter() = default;

  // Writes `bytes`, which stay valid until `done` has run, at `offset_bytes`, a multiple of kDirectAlignment.
  // The size is such a multiple too, except for the write that ends the blob. Unaligned memory costs a copy.
  // Writes complete in any order and must not overlap; the caller bounds how many are in flight. Does not
  // block.
  virtual void Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, IoDone done) = 0;

  // Call once, after every `done` has run: sets the size, flushes the data, closes, and reports the first
  // failure of any write. `size_bytes` lies within the last kDirectAlignment written (the excess is padding,
  // cut off). Blocks. After an error the blob is lost: a failed flush is never retried.
  virtual absl::Status Finish(int64_t size_bytes) = 0;
};

// One finished blob, open for reading; thread-safe. Reads go on after a Delete, or fail, but never return
// other bytes.
class BlobReader {
 public:
  virtual ~BlobReader() = default;

  virtual int64_t size_bytes() const = 0;

  // Fills all of `into`, which stays valid until `done` has run, from `offset_bytes`; OUT_OF_RANGE past the
  // end, never a short read. After an error `into` is undefined. The reader may be destroyed before `done`
  // runs. Does not block.
  virtual void Read(int64_t offset_bytes, absl::Span<std::byte> into, IoDone done) = 0;
};

// Thread-safe. Every call blocks for as long as the storage takes. Writers and readers may outlive the store.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Starts a blob, making directories as needed. `size_hint_bytes` (0: unknown) reserves space:
  // RESOURCE_EXHAUSTED now rather than later. ALREADY_EXISTS if anything is at `path`.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const BlobPath& path,
                                                             int64_t size_hint_bytes) = 0;

  // NOT_FOUND if nothing is there.
  virtual absl::StatusOr<std::unique_ptr<BlobReader>> Open(const BlobPath& path) = 0;

  // Makes `bytes` visible at `path` if and only if nothing is there: exactly one of any number of racing
  // callers, on any node, gets OK; the others get ALREADY_EXISTS. Durable when it returns either. After any
  // other error the outcome is unknown: read the path to learn it, with ReadPublished, which makes durable
  // what it finds.
  virtual absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) = 0;

  // All bytes of a record of at most kMaxPublishedBytes, after making its name durable. NOT_FOUND if nothing
  // is there.
  virtual absl::StatusOr<std::string> ReadPublished(const BlobPath& path) = 0;

  // Makes durable the names in the directory `directory` and in every directory above it, the store's root
  // included.
  virtual absl::Status SyncTree(const BlobPath& directory) = 0;

  // What lies directly in `directory`, sorted by path; empty if it is missing. RESOURCE_EXHAUSTED above
  // kMaxListEntries.
  virtual absl::StatusOr<std::vector<BlobInfo>> List(const BlobPath& directory) = 0;

  // Removes a blob or an empty directory; OK when it is already gone. FAILED_PRECONDITION for a directory
  // with entries.
  virtual absl::Status Delete(const BlobPath& path) = 0;

  // Bytes that may still be written, as far as the store knows.
  virtual absl::StatusOr<int64_t> SpaceAvailable() = 0;
};

// Create, Write and Finish of a whole blob; blocks. Not durable before SyncTree.
absl::Status PutBlob(BlobStore& store, const BlobPath& path, absl::string_view bytes);

// A whole blob of at most kMaxPublishedBytes (else RESOURCE_EXHAUSTED); blocks.
absl::StatusOr<std::string> ReadBlob(BlobStore& store, const BlobPath& path);

// BlobReader::Read that waits for its result.
absl::Status ReadExactly(BlobReader& reader, int64_t offset_bytes, absl::Span<std::byte> into);

// BlobWriter::Write that waits for its result.
absl::Status WriteExactly(BlobWriter& writer, int64_t offset_bytes, absl::Span<const std::byte> bytes);

// Deletes `top` and all beneath it, children first; OK when it is already gone. Stops at the first failure.
// At most kMaxTreeDepth levels, else FAILED_PRECONDITION. INVALID_ARGUMENT for the root.
absl::Status DeleteTree(BlobStore& store, const BlobPath& top);

// Publishes twice at `scratch_path`, where nothing may be, and deletes it again: FAILED_PRECONDITION unless
// the second publish is refused and the first one's bytes are still there. Run at start: some stores ignore
// the condition.
absl::Status Probe(BlobStore& store, const BlobPath& scratch_path);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_BLOB_STORE_H_
