// Headers of safetensors files: our own, and those that others publish.
//
//   8 bytes, little-endian: length of the JSON. Then the JSON, padded with spaces. Then the data, which
//   starts at a multiple of kHeaderAlignment (ours) and is the entries' bytes without holes, in the order of
//   data_offsets.
//
// Each of our entries is one packed row-major box. `__metadata__` holds "format":"keepstep/1" and, under the
// entry's name, `{"shape":[global],"origin":[…],"dtype":"…"}`. A dtype that safetensors lacks is stored as U8
// with one more dimension, of the element's size in bytes.

#ifndef KEEPSTEP_STORAGE_SAFETENSORS_H_
#define KEEPSTEP_STORAGE_SAFETENSORS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "reshard/box.h"
#include "reshard/dtype.h"

namespace keepstep::storage {

inline constexpr int64_t kHeaderAlignment = 4096;
inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // of the specification
inline constexpr size_t kMaxHeaderEntries = size_t{1} << 20;

// The header's name of box `k` of a tensor, `<fqn>` or `<fqn>#<k>` from 1; in the fqn `#` and `%`, and the
// first byte of the names `__metadata__` and `format`, are percent-escaped.
std::string EntryName(absl::string_view fqn, uint32_t k);
// The way back; nullopt for what EntryName never writes.
std::optional<std::pair<std::string, uint32_t>> ParseEntryName(absl::string_view name);

// One box in a file. Offsets count from the start of the data.
struct HeaderEntry {
  std::string name;  // as EntryName gives it
  reshard::DType dtype = reshard::DType::kU8;
  reshard::Box box;
  reshard::Dims global_shape;
  int64_t begin_bytes = 0;
  int64_t end_bytes = 0;
};

// Bytes that EncodeHeader needs for these entries, or for these without some of them: a multiple of
// kHeaderAlignment.
int64_t HeaderUpperBound(absl::Span<const HeaderEntry> entries);

// Exactly `reserved_bytes` (a multiple of kHeaderAlignment) of header. RESOURCE_EXHAUSTED above
// kMaxHeaderBytes; INVALID_ARGUMENT when it does not fit, or entries leave holes, overlap, repeat a name or
// differ from their box's size.
absl::StatusOr<std::string> EncodeHeader(absl::Span<const HeaderEntry> entries, int64_t reserved_bytes);

struct ParsedHeader {
  bool keepstep = false;     // written by us: names are EntryNames, boxes are places in global shapes
  int64_t header_bytes = 0;  // where the data begins
  std::vector<HeaderEntry>
      entries;  // in the order of the data; of a foreign file: whole tensors under their own names
  std::vector<std::pair<std::string, std::string>>
      metadata;  // a foreign file's own, in the order of the file
};

// The header's size from a file's first 8 bytes, that length included. DATA_LOSS: shorter, beyond the limit
// or the file.
absl::StatusOr<int64_t> HeaderSize(absl::string_view prefix, int64_t file_bytes);

// `bytes` holds at least the whole header of a file of `file_bytes`. DATA_LOSS, naming the entry, for
// anything but a header whose entries cover the rest of the file without hole or overlap, each as long as its
// shape says.
absl::StatusOr<ParsedHeader> ParseHeader(absl::string_view bytes, int64_t file_bytes);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_SAFETENSORS_H_
