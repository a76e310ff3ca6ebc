#include "client/command/tensor_diff.h"

#include "gtest/gtest.h"

namespace keepstep::client {
namespace {

v1::TensorInfo Tensor(const std::string& fqn, const std::string& dtype, std::vector<int64_t> rows,
                      const std::string& digest) {
  v1::TensorInfo info;
  info.mutable_tensor()->mutable_meta()->set_fqn(fqn);
  info.mutable_tensor()->mutable_meta()->set_dtype(dtype);
  info.mutable_tensor()->mutable_meta()->add_shape(8);
  int64_t at = 0;
  for (int64_t count : rows) {
    v1::ExtentInfo* extent = info.add_extents();
    extent->mutable_box()->add_origin(at);
    extent->mutable_box()->add_shape(count);
    extent->set_digest(digest);
    extent->set_offset_bytes(at * 100);  // where it lies says nothing
    at += count;
  }
  return info;
}

TEST(TensorDiff, TellsEveryKindApart) {
  const auto diff = DiffTensors(
      {Tensor("content", "F32", {8}, "a"), Tensor("gone", "F32", {8}, "a"), Tensor("layout", "F32", {8}, "a"),
       Tensor("meta", "F32", {8}, "a"), Tensor("same", "F32", {4, 4}, "a")},
      {Tensor("content", "F32", {8}, "b"), Tensor("layout", "F32", {4, 4}, "a"),
       Tensor("meta", "BF16", {8}, "a"), Tensor("new", "F32", {8}, "a"), Tensor("same", "F32", {4, 4}, "a")});
  EXPECT_EQ(diff.same, 1);
  std::string text;
  for (const TensorChange& change : diff.changes)
    text += change.fqn + ":" + KindName(change.kind) + ":" + change.from + ":" + change.to + ";";
  EXPECT_EQ(text,
            "content:content:F32 [8]:F32 [8];gone:removed:F32 [8]:;layout:layout:F32 [8]:F32 [8];"
            "meta:dtype or shape:F32 [8]:BF16 [8];new:added::F32 [8];");
}

}  // namespace
}  // namespace keepstep::client
