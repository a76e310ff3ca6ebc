// A BlobPath names a blob or a directory of a BlobStore, relative to the store's root: `a/b/c`.
//
// Invariant: a BlobPath is either the root (empty) or 1..kMaxComponents components joined by '/', each 1..255
// bytes, none of them `.` or `..`, no byte of them a control character. Code that holds one never checks it
// again; what it names still may not exist, and links inside the store are the store's business.

#ifndef KEEPSTEP_STORAGE_BLOB_PATH_H_
#define KEEPSTEP_STORAGE_BLOB_PATH_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace keepstep::storage {

class BlobPath {
 public:
  static constexpr size_t kMaxComponentBytes = 255;
  static constexpr size_t kMaxPathBytes = 4000;
  static constexpr size_t kMaxComponents = 64;

  // The store's root: a directory to list, sync or join to; no blob has this path.
  static BlobPath Root() { return BlobPath(std::string()); }

  // INVALID_ARGUMENT, naming what is wrong, for anything that breaks the invariant, the empty string
  // included.
  static absl::StatusOr<BlobPath> Parse(absl::string_view text);

  // This path followed by `relative`, which may hold several components; errors as Parse.
  absl::StatusOr<BlobPath> Join(absl::string_view relative) const;

  bool is_root() const { return text_.empty(); }
  const std::string& text() const { return text_; }

  // The directory that holds this path; the root's parent is the root.
  BlobPath Parent() const;

  // The last component; empty for the root. Points into this object.
  absl::string_view Leaf() const;

  friend bool operator==(const BlobPath& a, const BlobPath& b) { return a.text_ == b.text_; }
  friend bool operator!=(const BlobPath& a, const BlobPath& b) { return a.text_ != b.text_; }
  friend bool operator<(const BlobPath& a, const BlobPath& b) { return a.text_ < b.text_; }

 private:
  explicit BlobPath(std::string text) : text_(std::move(text)) {}

  std::string text_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_BLOB_PATH_H_
