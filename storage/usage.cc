#include "storage/usage.h"

#include <utility>
#include <vector>

namespace keepstep::storage {

absl::StatusOr<int64_t> StoredBytes(BlobStore& store) {
  int64_t bytes = 0;
  std::vector<std::pair<BlobPath, int>> directories = {{BlobPath::Root(), 0}};
  while (!directories.empty()) {
    const auto [directory, depth] = std::move(directories.back());
    directories.pop_back();
    absl::StatusOr<std::vector<BlobInfo>> listed = store.List(directory);
    if (!listed.ok()) return listed.status();
    for (BlobInfo& info : *listed) {
      bytes += info.size_bytes;
      if (info.is_directory && depth + 1 < kMaxTreeDepth)
        directories.emplace_back(std::move(info.path), depth + 1);
    }
  }
  return bytes;
}

}  // namespace keepstep::storage
