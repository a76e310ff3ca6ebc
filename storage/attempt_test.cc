#include "storage/attempt.h"

#include <string>

#include "gtest/gtest.h"
#include "storage/blob_path.h"

namespace keepstep::storage {
namespace {

TEST(Attempt, NamesGoBothWays) {
  for (const AttemptId& id :
       {AttemptId{0, 0, 0}, AttemptId{1, 2, 0xdeadbeef}, AttemptId{123456, INT64_MAX, UINT64_MAX}}) {
    const std::string name = AttemptName(id);
    ASSERT_TRUE(ParseAttempt(name).has_value()) << name;
    EXPECT_EQ(*ParseAttempt(name), id);
  }
  EXPECT_EQ(AttemptName({3, 7, 0xab}), "e3-a7-00000000000000ab");
}

// A directory that merely looks like an attempt must never be taken for one.
TEST(Attempt, JunkIsIgnored) {
  for (const char* name : {"",
                           "e",
                           "e-a-0000000000000000",
                           "e1-a2-",
                           "e1-a2-000000000000000",
                           "e1-a2-00000000000000000",
                           "e01-a2-0000000000000000",
                           "e1-a02-0000000000000000",
                           "E1-a2-0000000000000000",
                           "e1-a2-000000000000000G",
                           "e1-a2-00000000000000AB",
                           "e1-b2-0000000000000000",
                           "e-1-a2-0000000000000000",
                           "e1-a2-0000000000000000 ",
                           " e1-a2-0000000000000000",
                           "e+1-a2-0000000000000000",
                           "e1-a99999999999999999999-0000000000000000",
                           "e1-a2-0x00000000000000",
                           "1000",
                           "-a-aaaaaaaaaaaaaaaaaaaa"}) {
    EXPECT_FALSE(ParseAttempt(name).has_value()) << name;
  }
  for (const char* name :
       {"", "1", "00000000001", "0000000000001", "-00000000001", "00000000000x", "+00000000001"}) {
    EXPECT_FALSE(ParseStep(name).has_value()) << name;
  }
  for (const char* name : {"", "01", "-1", "+1", "1x", "99999999999999999999"})
    EXPECT_FALSE(ParseEpoch(name).has_value()) << name;
  for (const char* name :
       {"part-.pb", "part-01.pb", "part-1.pb2", "part-65536.pb", "part--1.pb", "part-1.PB"}) {
    EXPECT_FALSE(ParsePartName(name).has_value()) << name;
  }
}

TEST(Attempt, LaterIsGreater) {
  EXPECT_LT((AttemptId{1, 9, 9}), (AttemptId{2, 1, 1}));
  EXPECT_LT((AttemptId{2, 9, 9}), (AttemptId{2, 10, 1}));
}

TEST(Attempt, PathsAreBlobPaths) {
  const std::string attempt = AttemptName({1, 2, 3});
  EXPECT_EQ(StepName(12000), "000000012000");
  EXPECT_EQ(*ParseStep("000000012000"), 12000);
  EXPECT_EQ(*ParseStep(StepName(kMaxStep)), kMaxStep);
  EXPECT_EQ(BlobName(reshard::Component::kModel, 3, 16), "model-00003-of-00016.safetensors");
  EXPECT_EQ(BlobName(reshard::Component::kOptimizer, 0, 16384, 2), "optimizer-00000-of-16384-r2.safetensors");
  EXPECT_EQ(*ParsePartName(PartName(65535)), 65535u);
  EXPECT_EQ(DecisionPath(5, attempt), "000000000005/" + attempt + "/DECISION");
  for (const std::string& path : {DecisionPath(5, attempt), DeletingPath(5, attempt), PinsPath(5),
                                  ClaimPath(7), LatestPath(7), ParentPath(7)}) {
    EXPECT_TRUE(BlobPath::Parse(path).ok()) << path;
  }
}

}  // namespace
}  // namespace keepstep::storage
