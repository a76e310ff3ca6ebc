// What a store holds.

#ifndef KEEPSTEP_STORAGE_USAGE_H_
#define KEEPSTEP_STORAGE_USAGE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

// Bytes of all blobs, published or not, whatever became of their attempts. One listing per directory; blocks.
absl::StatusOr<int64_t> StoredBytes(BlobStore& store);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_USAGE_H_
