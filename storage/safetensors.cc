// Writing headers. The JSON is put together by hand: a header may have a million entries, and its bytes must
// be the same for the same entries.

#include "storage/safetensors.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "reshard/check.h"

namespace keepstep::storage {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr absl::string_view kFormatMetadata = "\"__metadata__\":{\"format\":\"keepstep/1\"";

// A JSON string without its quotes. Names hold no control characters by contract, but a header must be valid
// whatever they hold.
void AppendJsonText(absl::string_view text, std::string& out) {
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned>(c));
    } else {
      out.push_back(c);
    }
  }
}

void AppendDims(const reshard::Dims& dims, std::string& out) {
  out.push_back('[');
  for (size_t i = 0; i < dims.size(); ++i) absl::StrAppend(&out, i == 0 ? "" : ",", dims[i]);
  out.push_back(']');
}

void AppendMetadata(const HeaderEntry& entry, std::string& out) {
  out += ",\"";
  AppendJsonText(entry.name, out);
  out += "\":\"{\\\"shape\\\":";
  AppendDims(entry.global_shape, out);
  out += ",\\\"origin\\\":";
  AppendDims(entry.box.origin, out);
  absl::StrAppend(&out, ",\\\"dtype\\\":\\\"", reshard::DTypeName(entry.dtype), "\\\"}\"");
}

void AppendEntry(const HeaderEntry& entry, std::string& out) {
  const bool known = reshard::IsSafetensorsDType(entry.dtype);
  reshard::Dims shape = entry.box.shape;
  if (!known) shape.push_back(reshard::SizeBytes(entry.dtype));
  out += ",\"";
  AppendJsonText(entry.name, out);
  absl::StrAppend(&out, "\":{\"dtype\":\"", known ? reshard::DTypeName(entry.dtype) : "U8", "\",\"shape\":");
  AppendDims(shape, out);
  absl::StrAppend(&out, ",\"data_offsets\":[", entry.begin_bytes, ",", entry.end_bytes, "]}");
}

int64_t RoundUp(int64_t bytes) {
  return (bytes + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment;
}

absl::Status CheckEntries(absl::Span<const HeaderEntry> entries) {
  absl::flat_hash_set<absl::string_view> names;
  int64_t at = 0;
  for (const HeaderEntry& entry : entries) {
    if (!ParseEntryName(entry.name) || !names.insert(entry.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(entry.name, ": no entry name, or one that is taken"));
    }
    if (!reshard::ValidateBox(entry.box, entry.global_shape).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(entry.name, ": its box is not in its shape"));
    }
    const int64_t size_bytes = reshard::NumElements(entry.box) * reshard::SizeBytes(entry.dtype);
    if (entry.begin_bytes != at || entry.end_bytes != at + size_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(entry.name, ": its offsets leave a hole, overlap, or differ from its size"));
    }
    at = entry.end_bytes;
  }
  return absl::OkStatus();
}

}  // namespace

int64_t HeaderUpperBound(absl::Span<const HeaderEntry> entries) {
  auto json_bytes = static_cast<int64_t>(kFormatMetadata.size()) + 3;  // "{", "}}"
  std::string scratch;
  for (const HeaderEntry& entry : entries) {
    scratch.clear();
    AppendMetadata(entry, scratch);
    AppendEntry(entry, scratch);
    json_bytes += static_cast<int64_t>(scratch.size());
  }
  return RoundUp(kLengthBytes + json_bytes);
}

absl::StatusOr<std::string> EncodeHeader(absl::Span<const HeaderEntry> entries, int64_t reserved_bytes) {
  if (reserved_bytes % kHeaderAlignment != 0 || reserved_bytes <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("a header of ", reserved_bytes, " bytes is not aligned"));
  }
  if (reserved_bytes > kMaxHeaderBytes || entries.size() > kMaxHeaderEntries) {
    return absl::ResourceExhaustedError(absl::StrCat("a header of ", reserved_bytes, " bytes and ",
                                                     entries.size(),
                                                     " entries is more than a safetensors file may have"));
  }
  absl::Status status = CheckEntries(entries);
  if (!status.ok()) return status;
  std::string json = "{";
  absl::StrAppend(&json, kFormatMetadata);
  for (const HeaderEntry& entry : entries) AppendMetadata(entry, json);
  json.push_back('}');
  for (const HeaderEntry& entry : entries) AppendEntry(entry, json);
  json.push_back('}');
  const int64_t json_bytes = reserved_bytes - kLengthBytes;
  if (static_cast<int64_t>(json.size()) > json_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a header of ", json.size(), " bytes does not fit into ", json_bytes));
  }
  std::string header;
  header.reserve(static_cast<size_t>(reserved_bytes));
  for (int i = 0; i < kLengthBytes; ++i) header.push_back(static_cast<char>(json_bytes >> (8 * i)));
  header += json;
  header.resize(static_cast<size_t>(reserved_bytes), ' ');
  return header;
}

}  // namespace keepstep::storage
