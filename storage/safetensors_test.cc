#include "storage/safetensors.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace keepstep::storage {
namespace {

using reshard::Box;
using reshard::DType;

HeaderEntry Entry(absl::string_view fqn, uint32_t k, DType dtype, Box box, reshard::Dims global,
                  int64_t& at) {
  HeaderEntry entry;
  entry.name = EntryName(fqn, k);
  entry.dtype = dtype;
  entry.box = std::move(box);
  entry.global_shape = std::move(global);
  entry.begin_bytes = at;
  at += reshard::NumElements(entry.box) * reshard::SizeBytes(dtype);
  entry.end_bytes = at;
  return entry;
}

std::vector<HeaderEntry> SampleEntries(int64_t& data_bytes) {
  data_bytes = 0;
  std::vector<HeaderEntry> entries;
  entries.push_back(Entry("model.w", 0, DType::kF32, {{2, 0}, {2, 3}}, {4, 3}, data_bytes));
  entries.push_back(Entry("model.w", 1, DType::kF32, {{0, 1}, {1, 2}}, {4, 3}, data_bytes));
  entries.push_back(Entry("scalar", 0, DType::kI64, {{}, {}}, {}, data_bytes));
  entries.push_back(Entry("empty", 0, DType::kBF16, {{0, 0}, {0, 8}}, {0, 8}, data_bytes));
  entries.push_back(Entry("a#b%\"\\/ü", 0, DType::kF8E4M3FNUZ, {{1}, {5}}, {8}, data_bytes));
  entries.push_back(Entry("__metadata__", 0, DType::kC128, {{0}, {2}}, {2}, data_bytes));
  entries.push_back(Entry("format", 0, DType::kU8, {{0}, {3}}, {3}, data_bytes));
  return entries;
}

std::string File(absl::string_view json, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(json.size() >> (8 * i)));
  absl::StrAppend(&file, json);
  file.append(data_bytes, 'd');
  return file;
}

absl::Status ParseStatus(absl::string_view json, size_t data_bytes) {
  const std::string file = File(json, data_bytes);
  return ParseHeader(file, static_cast<int64_t>(file.size())).status();
}

TEST(Safetensors, HeaderGoesBothWays) {
  int64_t data_bytes = 0;
  const std::vector<HeaderEntry> entries = SampleEntries(data_bytes);
  const int64_t bound = HeaderUpperBound(entries);
  for (int64_t reserved : {bound, bound + 2 * kHeaderAlignment}) {
    absl::StatusOr<std::string> header = EncodeHeader(entries, reserved);
    ASSERT_TRUE(header.ok()) << header.status();
    ASSERT_EQ(static_cast<int64_t>(header->size()), reserved);
    absl::StatusOr<ParsedHeader> parsed = ParseHeader(*header, reserved + data_bytes);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(parsed->keepstep);
    EXPECT_EQ(parsed->header_bytes, reserved);
    ASSERT_EQ(parsed->entries.size(), entries.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      EXPECT_EQ(parsed->entries[i].name, entries[i].name);
      EXPECT_EQ(parsed->entries[i].dtype, entries[i].dtype);
      EXPECT_EQ(parsed->entries[i].box, entries[i].box);
      EXPECT_EQ(parsed->entries[i].global_shape, entries[i].global_shape);
      EXPECT_EQ(parsed->entries[i].begin_bytes, entries[i].begin_bytes);
      EXPECT_EQ(parsed->entries[i].end_bytes, entries[i].end_bytes);
    }
  }
}

// The header is reserved before the data is written: it must fit, to the byte, whatever the names.
TEST(Safetensors, UpperBoundHolds) {
  for (int count : {0, 1, 27, 500}) {
    int64_t at = 0;
    std::vector<HeaderEntry> entries;
    for (int i = 0; i < count; ++i)
      entries.push_back(Entry(absl::StrCat("layer.\"", i), 0, DType::kF64, {{i}, {1}}, {1000}, at));
    EXPECT_TRUE(EncodeHeader(entries, HeaderUpperBound(entries)).ok()) << count;
  }
  int64_t data_bytes = 0;
  std::vector<HeaderEntry> entries = SampleEntries(data_bytes);
  for (int i = 0; i < 60; ++i)
    entries.push_back(Entry(absl::StrCat("t", i), 0, DType::kF32, {{0}, {2}}, {2}, data_bytes));
  EXPECT_EQ(EncodeHeader(entries, HeaderUpperBound(entries) - kHeaderAlignment).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeHeader(entries, kHeaderAlignment * 30000).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(Safetensors, RefusesToWriteWhatItWouldNotRead) {
  int64_t data_bytes = 0;
  const std::vector<HeaderEntry> good = SampleEntries(data_bytes);
  const int64_t bound = HeaderUpperBound(good);
  for (auto spoil : {+[](std::vector<HeaderEntry>& e) { e[1].begin_bytes += 1; },
                     +[](std::vector<HeaderEntry>& e) { e[1].name = e[0].name; },
                     +[](std::vector<HeaderEntry>& e) { e[0].end_bytes += 4; },
                     +[](std::vector<HeaderEntry>& e) { e[0].box.origin[0] = 3; },
                     +[](std::vector<HeaderEntry>& e) { e[0].name = "a#b#c"; },
                     +[](std::vector<HeaderEntry>& e) { e.erase(e.begin()); }}) {
    std::vector<HeaderEntry> entries = good;
    spoil(entries);
    EXPECT_EQ(EncodeHeader(entries, bound).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Safetensors, ReadsWhatOthersPublish) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"b#1":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )";
  const std::string file = File(json, 12);
  absl::StatusOr<ParsedHeader> parsed = ParseHeader(file, static_cast<int64_t>(file.size()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->keepstep);
  ASSERT_EQ(parsed->entries.size(), 2u);
  EXPECT_EQ(parsed->entries[0].name, "a");
  EXPECT_EQ(parsed->entries[1].box, (Box{{0, 0}, {2, 2}}));
  EXPECT_EQ(parsed->metadata[0].second, "pt");
  EXPECT_TRUE(ParseStatus("{}", 0).ok());
}

TEST(Safetensors, RefusesMalformedFiles) {
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  for (
      const std::string& json : std::vector<std::string>{
          "",
          "[]",
          " {}",
          "{",
          "{" + a,
          "{" + a + "}x",
          "{" + a + "," + a + "}",
          "{\"a\":1}",
          "{\"a\":[]}",
          R"({"a":{"dtype":"F32","shape":[1]}})",
          R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"C128","shape":[1],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})",
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})",
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})",
          R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})",
          R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
          R"({"__metadata__":{"k":1},)" + a + "}",
          R"({"__metadata__":{},"__metadata__":{},)" + a + "}",
          R"({"__metadata__":{"format":"keepstep/1"},)" + a + "}",
          R"({"__metadata__":{"format":"keepstep/1","a":"{}"},)" + a + "}",
          R"({"__metadata__":{"format":"keepstep/1","a":"[[[[[["},)" + a + "}",
          R"({"__metadata__":{"format":"keepstep/1","a":"{\"shape\":[1],\"origin\":[1],\"dtype\":\"F32\"}"},)" +
              a + "}",
          R"({"__metadata__":{"format":"keepstep/1","a":"{\"shape\":[1],\"origin\":[0],\"dtype\":\"I32\"}"},)" +
              a + "}",
          R"({"__metadata__":{"format":"keepstep/1","b":"{\"shape\":[1],\"origin\":[0],\"dtype\":\"F32\"}"},)" +
              a + "}",
          "{\"a\":" + std::string(100000, '[') + "}",
          "{\"a\":" + std::string(100000, '{') + "}",
          "{" + a + ",\"\xff\":{}}"}) {
    EXPECT_EQ(ParseStatus(json, 4).code(), absl::StatusCode::kDataLoss) << json.substr(0, 200);
  }
  EXPECT_TRUE(ParseStatus("{" + a + "}", 4).ok());
  EXPECT_EQ(ParseStatus("{" + a + "}", 5).code(), absl::StatusCode::kDataLoss) << "bytes that no entry names";
  EXPECT_EQ(ParseStatus("{" + a + "}", 3).code(), absl::StatusCode::kDataLoss) << "a file cut short";
}

// A header is covered by its own digest; but parsing one that was not checked must be safe, and every cut is
// an error.
TEST(Safetensors, TruncationAndBitFlipsAreSafe) {
  int64_t data_bytes = 0;
  const std::vector<HeaderEntry> entries = SampleEntries(data_bytes);
  const std::string header = *EncodeHeader(entries, HeaderUpperBound(entries));
  const auto file_bytes = static_cast<int64_t>(header.size()) + data_bytes;
  for (size_t size = 0; size < header.size(); ++size) {
    EXPECT_EQ(ParseHeader(absl::string_view(header).substr(0, size), file_bytes).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
  const size_t end = header.find_last_not_of(' ') + 1;
  int accepted = 0;
  for (size_t bit = 0; bit < 8 * end; ++bit) {
    std::string flipped = header;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    absl::StatusOr<ParsedHeader> parsed = ParseHeader(flipped, file_bytes);
    EXPECT_TRUE(parsed.ok() || absl::IsDataLoss(parsed.status())) << bit;
    accepted += parsed.ok();
  }
  EXPECT_LT(accepted, static_cast<int>(8 * end) / 2)
      << "names and origins alone may change without contradiction";
}

TEST(EntryName, GoesBothWays) {
  for (const char* fqn : {"a", "a/b", "#", "%", "%23", "a#1", "__metadata__", "format", "format2", "ü"}) {
    for (uint32_t k : {0u, 1u, 65535u}) {
      const auto parsed = ParseEntryName(EntryName(fqn, k));
      ASSERT_TRUE(parsed.has_value()) << fqn;
      EXPECT_EQ(parsed->first, fqn);
      EXPECT_EQ(parsed->second, k);
    }
  }
  EXPECT_EQ(EntryName("__metadata__", 2), "%5F_metadata__#2");
  for (const char* name :
       {"", "#1", "a#", "a#0", "a#01", "a#-1", "a%", "a%2", "a%zz", "a%41", "__metadata__", "format"}) {
    EXPECT_FALSE(ParseEntryName(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace keepstep::storage
