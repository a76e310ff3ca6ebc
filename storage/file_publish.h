// Small records of a FileStore: visible whole or not at all, exactly once, durable when reported.

#ifndef KEEPSTEP_STORAGE_FILE_PUBLISH_H_
#define KEEPSTEP_STORAGE_FILE_PUBLISH_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/blob_path.h"
#include "storage/file_tree.h"
#include "storage/reserve.h"

namespace keepstep::storage {

// BlobStore::PublishExclusive; blocks. A record that has no room gets that of `reserve`, if there is one.
absl::Status PublishFile(const FileTree& tree, const BlobPath& path, absl::string_view bytes,
                         Reserve* reserve);

// BlobStore::ReadPublished; blocks.
absl::StatusOr<std::string> ReadPublishedFile(const FileTree& tree, const BlobPath& path);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_PUBLISH_H_
