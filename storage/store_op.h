// One operation on a BlobStore as a value, so that a pure machine can ask for it and a driver or a simulator
// can carry it out.
//
// Paths are texts of BlobPath, relative to the job's directory; "" is that directory.

#ifndef KEEPSTEP_STORAGE_STORE_OP_H_
#define KEEPSTEP_STORAGE_STORE_OP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

struct StoreOp {
  enum class Kind : uint8_t {
    kList,           // → blobs
    kRead,           // → bytes; the name may not be durable
    kReadPublished,  // → bytes, whose name is durable
    kPublish,        // `bytes`, exclusively, durable
    kSyncTree,
    kDelete,
    kDeleteTree,
    kPut,  // `bytes`; durable after a kSyncTree of its directory
  };
  Kind kind = Kind::kList;
  std::string path;
  std::string bytes;
};

struct StoreResult {
  absl::Status status;
  std::string bytes;
  std::vector<BlobInfo> blobs;
};

// Carries out `op`; blocks as the store does. Errors are in the result: the store's own, or INVALID_ARGUMENT
// for a path that is none. Thread-safe as the store is.
StoreResult RunStoreOp(BlobStore& store, const StoreOp& op);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_STORE_OP_H_
