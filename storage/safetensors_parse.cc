// Reading headers that anyone may have written: one pass with a fixed grammar and limits, then the checks
// that need all entries. Nothing is built from the JSON but what the grammar names.

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "storage/safetensors.h"

namespace keepstep::storage {
namespace {

using nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr size_t kMaxNameBytes = 4096;  // an fqn of 1,024 bytes, escaped
constexpr size_t kMaxNoteBytes = 8192;  // an entry's metadata: 64 dimensions twice

absl::Status Bad(absl::string_view what, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("safetensors header: ", what, ": ", why));
}

struct RawEntry {
  std::string name, dtype;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  reshard::Dims shape;
  reshard::Dims offsets;
};

// {"__metadata__": {key: string, …}, name: {"dtype": string, "shape": [n, …], "data_offsets": [n, n]}, …}
class HeaderSax : public nlohmann::json_sax<json> {
 public:
  std::vector<RawEntry> entries;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::string error;

  bool null() override { return Unexpected(); }
  bool boolean(bool) override { return Unexpected(); }
  bool number_integer(number_integer_t) override { return Unexpected(); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected(); }
  bool binary(binary_t&) override { return Unexpected(); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kArray || value > INT64_MAX) return Unexpected();
    if (array_->size() >= reshard::kMaxDims + 1) return Fail("too many dimensions");
    array_->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata.emplace_back(key_, std::move(value));
      return true;
    }
    if (place_ != Place::kEntry || key_ != "dtype" || entries.back().has_dtype) return Unexpected();
    entries.back().has_dtype = true;
    entries.back().dtype = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Unexpected();
    if (key_ == "__metadata__") {
      if (has_metadata_) return Fail("listed twice");
      has_metadata_ = true;
      place_ = Place::kMetadata;
      return true;
    }
    if (entries.size() >= kMaxHeaderEntries) return Fail("too many entries");
    entries.emplace_back().name = key_;
    place_ = Place::kEntry;
    return true;
  }

  bool key(string_t& value) override {
    if (value.size() > kMaxNameBytes) return Fail("a name that is too long");
    if (metadata.size() > kMaxHeaderEntries) return Fail("too much metadata");
    key_ = std::move(value);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry) {
      const RawEntry& entry = entries.back();
      if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets)
        return Fail("dtype, shape or data_offsets is missing");
    }
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kEntry) return Unexpected();
    RawEntry& entry = entries.back();
    bool& seen = key_ == "shape" ? entry.has_shape : entry.has_offsets;
    if ((key_ != "shape" && key_ != "data_offsets") || seen) return Unexpected();
    seen = true;
    array_ = key_ == "shape" ? &entry.shape : &entry.offsets;
    place_ = Place::kArray;
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    error = absl::StrCat("not JSON at byte ", position);
    return false;
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kEntry, kArray };

  bool Fail(absl::string_view why) {
    error = absl::StrCat(key_, ": ", why);
    return false;
  }
  bool Unexpected() { return Fail("a value that does not belong here"); }

  Place place_ = Place::kOutside;
  std::string key_;
  reshard::Dims* array_ = nullptr;
  bool has_metadata_ = false;
};

bool ReadDims(const json& object, const char* key, reshard::Dims& into) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array() || found->size() > reshard::kMaxDims) return false;
  for (const json& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return false;
    into.push_back(static_cast<int64_t>(value.get<uint64_t>()));
  }
  return true;
}

// Bounded before it is parsed, so that nesting is too.
absl::Status ApplyNote(const std::string& note, HeaderEntry& entry) {
  if (note.size() > kMaxNoteBytes) return Bad(entry.name, "metadata that is too long");
  const json object = json::parse(note, nullptr, false);
  if (!object.is_object() || object.size() != 3) return Bad(entry.name, "malformed metadata");
  const auto dtype = object.find("dtype");
  if (!ReadDims(object, "shape", entry.global_shape) || !ReadDims(object, "origin", entry.box.origin) ||
      dtype == object.end() || !dtype->is_string()) {
    return Bad(entry.name, "malformed metadata");
  }
  absl::StatusOr<reshard::DType> true_dtype = reshard::ParseDType(dtype->get_ref<const std::string&>());
  if (!true_dtype.ok()) return Bad(entry.name, true_dtype.status().message());
  const bool stored_as_bytes = !reshard::IsSafetensorsDType(*true_dtype);
  if (stored_as_bytes) {
    reshard::Dims& shape = entry.box.shape;
    if (entry.dtype != reshard::DType::kU8 || shape.empty() ||
        shape.back() != reshard::SizeBytes(*true_dtype)) {
      return Bad(entry.name, "bytes that do not hold its dtype");
    }
    shape.pop_back();
  } else if (entry.dtype != *true_dtype) {
    return Bad(entry.name, "two dtypes");
  }
  entry.dtype = *true_dtype;
  if (!ParseEntryName(entry.name)) return Bad(entry.name, "a name that was not escaped");
  return absl::OkStatus();
}

absl::StatusOr<HeaderEntry> FromRaw(RawEntry& raw) {
  HeaderEntry entry;
  entry.name = std::move(raw.name);
  absl::StatusOr<reshard::DType> dtype = reshard::ParseDType(raw.dtype);
  if (!dtype.ok() || !reshard::IsSafetensorsDType(*dtype))
    return Bad(entry.name, absl::StrCat("unknown dtype ", raw.dtype));
  entry.dtype = *dtype;
  if (raw.offsets.size() != 2 || raw.offsets[0] > raw.offsets[1])
    return Bad(entry.name, "impossible data_offsets");
  entry.begin_bytes = raw.offsets[0];
  entry.end_bytes = raw.offsets[1];
  absl::Status status = reshard::ValidateShape(raw.shape);
  if (!status.ok()) return Bad(entry.name, status.message());
  const int64_t elements = reshard::NumElements(raw.shape);
  const int64_t item_bytes = reshard::SizeBytes(entry.dtype);
  if (elements > INT64_MAX / item_bytes || elements * item_bytes != entry.end_bytes - entry.begin_bytes) {
    return Bad(entry.name, "data_offsets that differ from its shape");
  }
  entry.box.shape = std::move(raw.shape);
  return entry;
}

// Finds each entry's note; every note has its entry.
absl::Status ApplyNotes(const std::vector<std::pair<std::string, std::string>>& metadata,
                        std::vector<HeaderEntry>& entries) {
  absl::flat_hash_map<absl::string_view, const std::string*> notes;
  for (const auto& [key, value] : metadata) {
    if (key != "format" && !notes.emplace(key, &value).second) return Bad(key, "listed twice");
  }
  if (notes.size() != entries.size()) return Bad("__metadata__", "not one entry of it for each tensor");
  for (HeaderEntry& entry : entries) {
    const auto note = notes.find(entry.name);
    if (note == notes.end()) return Bad(entry.name, "it has no metadata");
    absl::Status status = ApplyNote(*note->second, entry);
    if (!status.ok()) return status;
    if (!reshard::ValidateBox(entry.box, entry.global_shape).ok())
      return Bad(entry.name, "a box outside its shape");
  }
  return absl::OkStatus();
}

absl::Status CheckDataCovered(std::vector<HeaderEntry>& entries, int64_t data_bytes) {
  std::stable_sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin_bytes, a.end_bytes) < std::pair(b.begin_bytes, b.end_bytes);
  });
  absl::flat_hash_set<absl::string_view> names;
  int64_t at = 0;
  for (const HeaderEntry& entry : entries) {
    if (!names.insert(entry.name).second) return Bad(entry.name, "listed twice");
    if (entry.begin_bytes != at) return Bad(entry.name, "a hole or an overlap before it");
    at = entry.end_bytes;
  }
  if (at != data_bytes) {
    return Bad("file", absl::StrCat("its data has ", data_bytes, " bytes, the entries say ", at));
  }
  return absl::OkStatus();
}

bool IsKeepstep(const HeaderSax& sax) {
  return std::any_of(sax.metadata.begin(), sax.metadata.end(),
                     [](const auto& pair) { return pair.first == "format" && pair.second == "keepstep/1"; });
}

}  // namespace

absl::StatusOr<int64_t> HeaderSize(absl::string_view prefix, int64_t file_bytes) {
  if (prefix.size() < kLengthBytes || file_bytes < kLengthBytes)
    return Bad("file", "too short to be safetensors");
  uint64_t json_bytes = 0;
  for (int i = 0; i < kLengthBytes; ++i) json_bytes |= uint64_t{static_cast<uint8_t>(prefix[i])} << (8 * i);
  if (json_bytes > static_cast<uint64_t>(kMaxHeaderBytes) ||
      json_bytes > static_cast<uint64_t>(file_bytes - kLengthBytes)) {
    return Bad("length", absl::StrCat(json_bytes, " bytes are beyond the limit or the file"));
  }
  return kLengthBytes + static_cast<int64_t>(json_bytes);
}

absl::StatusOr<ParsedHeader> ParseHeader(absl::string_view bytes, int64_t file_bytes) {
  absl::StatusOr<int64_t> header_bytes = HeaderSize(bytes, file_bytes);
  if (!header_bytes.ok()) return header_bytes.status();
  if (static_cast<int64_t>(bytes.size()) < *header_bytes) return Bad("file", "the header is cut short");
  const absl::string_view text =
      bytes.substr(kLengthBytes, static_cast<size_t>(*header_bytes - kLengthBytes));
  if (text.empty() || text.front() != '{') return Bad("length", "no JSON object follows");
  HeaderSax sax;
  if (!json::sax_parse(text.begin(), text.end(), &sax)) return Bad("JSON", sax.error);
  ParsedHeader header;
  header.header_bytes = *header_bytes;
  header.keepstep = IsKeepstep(sax);
  header.entries.reserve(sax.entries.size());
  for (RawEntry& raw : sax.entries) {
    absl::StatusOr<HeaderEntry> entry = FromRaw(raw);
    if (!entry.ok()) return entry.status();
    header.entries.push_back(*std::move(entry));
  }
  absl::Status status = CheckDataCovered(header.entries, file_bytes - *header_bytes);
  if (status.ok() && header.keepstep) status = ApplyNotes(sax.metadata, header.entries);
  if (!status.ok()) return status;
  if (!header.keepstep) {
    for (HeaderEntry& entry : header.entries) {
      entry.global_shape = entry.box.shape;
      entry.box.origin.assign(entry.box.shape.size(), 0);
    }
    header.metadata = std::move(sax.metadata);
  }
  return header;
}

}  // namespace keepstep::storage
