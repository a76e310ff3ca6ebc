// Published safetensors, read as the caller: one file, or the files that an index names.

#ifndef KEEPSTEP_CLIENT_COMMAND_SAFETENSORS_FILE_H_
#define KEEPSTEP_CLIENT_COMMAND_SAFETENSORS_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/unique_fd.h"
#include "storage/safetensors.h"

namespace keepstep::client {

struct SafetensorsFile {
  std::string path;
  UniqueFd fd;
  storage::ParsedHeader header;
};

// `source` is a .safetensors file, an index (*.index.json), or a directory that holds one of them. NOT_FOUND,
// DATA_LOSS (a damaged header, an index that names a tensor which its file lacks), INVALID_ARGUMENT (a name
// in two files).
absl::StatusOr<std::vector<SafetensorsFile>> OpenSafetensors(const std::string& source);

// Reads exactly `into.size()` bytes.
absl::Status ReadFully(int fd, const std::string& path, int64_t offset_bytes, absl::Span<char> into);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_SAFETENSORS_FILE_H_
