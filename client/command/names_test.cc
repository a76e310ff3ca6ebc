#include "client/command/names.h"

#include <gtest/gtest.h>

namespace keepstep::client {
namespace {

TEST(ParseName, LabelAndStep) {
  const auto name = ParseName("llama-7b/1200");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->job, "llama-7b");
  EXPECT_FALSE(name->is_directory);
  EXPECT_EQ(name->step, 1200);
  EXPECT_FALSE(name->latest);
}

TEST(ParseName, AJobAloneMeansItsLatest) {
  const auto name = ParseName("llama-7b");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->job, "llama-7b");
  EXPECT_TRUE(name->latest);
  EXPECT_EQ(ParseName("llama-7b/latest")->job, "llama-7b");
}

TEST(ParseName, Directories) {
  EXPECT_TRUE(ParseName("/ckpt/llama/000000000012")->is_directory);
  EXPECT_EQ(ParseName("/ckpt/llama/000000000012")->step, 12);
  EXPECT_EQ(ParseName("/ckpt/llama/")->job, "/ckpt/llama");
  EXPECT_TRUE(ParseName("./llama/latest")->is_directory);
  EXPECT_TRUE(ParseName(".")->is_directory);
  EXPECT_EQ(ParseName("/7")->job, "/");
}

TEST(ParseName, Refused) {
  EXPECT_FALSE(ParseName("").ok());
  EXPECT_FALSE(ParseName("job/99999999999999999999").ok());
}

}  // namespace
}  // namespace keepstep::client
