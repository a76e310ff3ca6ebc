#include "storage/blob_path.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::storage {
namespace {

TEST(BlobPath, AcceptsRelativePathsOfPlainComponents) {
  for (const char* text :
       {"a", "a/b", "000000000012/e1-a2-0123456789abcdef/DECISION", "...", ".hidden", "a b/\xc3"}) {
    absl::StatusOr<BlobPath> path = BlobPath::Parse(text);
    ASSERT_TRUE(path.ok()) << text << path.status();
    EXPECT_EQ(path->text(), text);
  }
}

// A job's name reaches a path; one that could climb out of the job's directory would let one job overwrite
// another.
TEST(BlobPath, RefusesWhatCouldLeaveTheStore) {
  const std::string with_nul("a\0b", 3);
  const std::vector<std::string> texts = {"",   "/",      "/a",  "a/",   "a//b",  ".",
                                          "..", "a/../b", "a/.", "a\nb", "a\x7f", with_nul};
  for (const std::string& text : texts) {
    EXPECT_EQ(BlobPath::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(BlobPath, LimitsLengths) {
  EXPECT_TRUE(BlobPath::Parse(std::string(255, 'x')).ok());
  EXPECT_FALSE(BlobPath::Parse(std::string(256, 'x')).ok());
  std::string deep = "x";
  for (int i = 1; i < 64; ++i) deep += "/x";
  EXPECT_TRUE(BlobPath::Parse(deep).ok());
  EXPECT_FALSE(BlobPath::Parse(deep + "/x").ok());
  std::string wide = std::string(255, 'x');
  for (int i = 0; i < 15; ++i) wide += "/" + std::string(255, 'x');
  EXPECT_FALSE(BlobPath::Parse(wide).ok());
}

TEST(BlobPath, JoinsAndSplits) {
  const BlobPath root = BlobPath::Root();
  EXPECT_TRUE(root.is_root());
  EXPECT_EQ(root.Leaf(), "");
  EXPECT_EQ(root.Parent(), root);
  const BlobPath path = root.Join("a")->Join("b/c").value();
  EXPECT_EQ(path.text(), "a/b/c");
  EXPECT_EQ(path.Leaf(), "c");
  EXPECT_EQ(path.Parent().text(), "a/b");
  EXPECT_TRUE(path.Parent().Parent().Parent().is_root());
  EXPECT_FALSE(path.Join("..").ok());
  EXPECT_FALSE(path.Join("").ok());
  EXPECT_FALSE(path.Join("/etc").ok());
}

}  // namespace
}  // namespace keepstep::storage
