// A file that claims to be safetensors: its length, its header, and how long the file is.
//
// Of a header that is taken, the entries cover the data exactly, each as long as its box. One of ours is also
// written again from what was read, and reads as the same.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/safetensors.h"
#include "tests/fuzz/bytes.h"

namespace keepstep::fuzz {
namespace {

using storage::HeaderEntry;
using storage::ParsedHeader;

void CheckEntries(const ParsedHeader& header, int64_t file_bytes) {
  int64_t at = 0;
  for (const HeaderEntry& entry : header.entries) {
    KEEPSTEP_CHECK(reshard::ValidateBox(entry.box, entry.global_shape).ok(), "a box outside its tensor");
    KEEPSTEP_CHECK(entry.begin_bytes == at, "a hole or an overlap");
    const __int128 size =
        static_cast<__int128>(reshard::NumElements(entry.box)) * reshard::SizeBytes(entry.dtype);
    KEEPSTEP_CHECK(size == entry.end_bytes - entry.begin_bytes, "an entry that is not as long as its box");
    at = entry.end_bytes;
  }
  KEEPSTEP_CHECK(at == file_bytes - header.header_bytes, "entries that do not cover the data");
}

bool SameEntry(const HeaderEntry& a, const HeaderEntry& b) {
  return a.name == b.name && a.dtype == b.dtype && a.box == b.box && a.global_shape == b.global_shape &&
         a.begin_bytes == b.begin_bytes && a.end_bytes == b.end_bytes;
}

void CheckWrittenAgain(const ParsedHeader& header) {
  const int64_t reserved_bytes = storage::HeaderUpperBound(header.entries);
  const absl::StatusOr<std::string> written = storage::EncodeHeader(header.entries, reserved_bytes);
  KEEPSTEP_CHECK(written.ok(), "a header that was read cannot be written");
  const int64_t data_bytes = header.entries.empty() ? 0 : header.entries.back().end_bytes;
  const absl::StatusOr<ParsedHeader> again = storage::ParseHeader(*written, reserved_bytes + data_bytes);
  KEEPSTEP_CHECK(again.ok() && again->keepstep, "a header that was written cannot be read");
  KEEPSTEP_CHECK(again->entries.size() == header.entries.size(), "entries were lost");
  for (size_t i = 0; i < header.entries.size(); ++i) {
    KEEPSTEP_CHECK(SameEntry(again->entries[i], header.entries[i]), "an entry changed");
  }
}

void TestHeader(absl::string_view bytes, int64_t file_bytes) {
  const absl::StatusOr<ParsedHeader> header = storage::ParseHeader(bytes, file_bytes);
  if (!header.ok()) return;
  CheckEntries(*header, file_bytes);
  // A file of 2^63 bytes leaves no room for the alignment of our headers.
  if (header->keepstep && file_bytes < INT64_MAX - 2 * storage::kMaxHeaderBytes) CheckWrittenAgain(*header);
}

// The JSON alone, with the length that it has and as much data as its last offset says.
void TestJson(absl::string_view json, int64_t data_bytes) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(json.size() >> (8 * i)));
  absl::StrAppend(&bytes, json);
  TestHeader(bytes, static_cast<int64_t>(bytes.size()) + data_bytes);
}

}  // namespace
}  // namespace keepstep::fuzz

// One byte of choice. Then the file's length and the file; or the data's length in decimal, a line's end, the
// JSON.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == 'f') {
    keepstep::fuzz::Bytes bytes(data + 1, size - 1);
    const auto file_bytes = bytes.Take<int64_t>();
    if (file_bytes >= 0) keepstep::fuzz::TestHeader(bytes.rest(), file_bytes);
    return 0;
  }
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  if (line == absl::string_view::npos) return -1;
  int64_t data_bytes = 0;
  for (const char c : text.substr(0, line)) {
    if (c < '0' || c > '9' || data_bytes > INT64_MAX / 20) return -1;
    data_bytes = data_bytes * 10 + (c - '0');
  }
  keepstep::fuzz::TestJson(text.substr(line + 1), data_bytes);
  return 0;
}
