// A directory of a test's own, removed with all beneath it.

#ifndef KEEPSTEP_STORAGE_TEMPORARY_DIRECTORY_H_
#define KEEPSTEP_STORAGE_TEMPORARY_DIRECTORY_H_

#include <fcntl.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& parent = ::testing::TempDir())
      : path_((std::filesystem::path(parent) / "keepstep-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  UniqueFd Open() const { return UniqueFd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

 private:
  std::string path_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_TEMPORARY_DIRECTORY_H_
