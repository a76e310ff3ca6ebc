// What one rank's share of a save left on storage, as plain values: the input of a part (part_builder.h).

#ifndef KEEPSTEP_DAEMON_SAVE_RESULT_H_
#define KEEPSTEP_DAEMON_SAVE_RESULT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "reshard/tensor.h"

namespace keepstep::daemon {

struct SavedExtent {
  reshard::TensorMeta meta;
  std::vector<std::string> aliases;
  reshard::Box box;
  int64_t offset_bytes = 0;  // in the file
  int64_t size_bytes = 0;
  std::string digest;         // 16 bytes
  std::string block_digests;  // 16 bytes a block
  std::string entry;          // name in the safetensors header
};

struct SavedItem {  // one item of an extra
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;
  std::string digest;
  std::string block_digests;
};

struct SavedExtra {
  std::string name;
  std::vector<int64_t> coordinate;
  bool splittable = false;
  std::vector<SavedItem> items;  // in this blob
};

struct SavedBlob {
  std::string name;  // file name in the attempt's directory
  int64_t size_bytes = 0;
  int64_t header_bytes = 0;
  std::string header_digest;
  std::vector<SavedExtent> extents;
  std::vector<SavedExtra> extras;
};

struct SavedShare {
  int32_t rank = 0;
  std::vector<SavedBlob> blobs;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_RESULT_H_
