#include "reshard/dtype.h"

#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

TEST(DType, NamesReadBack) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const DType dtype = static_cast<DType>(i);
    const auto parsed = ParseDType(DTypeName(dtype));
    ASSERT_TRUE(parsed.ok()) << DTypeName(dtype);
    EXPECT_EQ(*parsed, dtype);
  }
}

TEST(DType, HasTheSizesThatTheNamesSay) {
  EXPECT_EQ(SizeBytes(DType::kBool), 1);
  EXPECT_EQ(SizeBytes(DType::kF8E4M3), 1);
  EXPECT_EQ(SizeBytes(DType::kBF16), 2);
  EXPECT_EQ(SizeBytes(DType::kF32), 4);
  EXPECT_EQ(SizeBytes(DType::kC64), 8);
  EXPECT_EQ(SizeBytes(DType::kC128), 16);
  EXPECT_EQ(DTypeName(DType::kF8E8M0), "F8_E8M0");
  EXPECT_EQ(DTypeName(DType::kU64), "U64");
}

TEST(DType, KnowsWhatSafetensorsLacks) {
  EXPECT_TRUE(IsSafetensorsDType(DType::kC64));
  EXPECT_TRUE(IsSafetensorsDType(DType::kF8E5M2));
  EXPECT_FALSE(IsSafetensorsDType(DType::kC128));
  EXPECT_FALSE(IsSafetensorsDType(DType::kF8E5M2FNUZ));
}

TEST(DType, RefusesUnknownNames) {
  for (const absl::string_view name : {"", "f32", "F31", "F32 "}) {
    EXPECT_EQ(ParseDType(name).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace keepstep::reshard
