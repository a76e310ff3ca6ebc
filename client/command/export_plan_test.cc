#include "client/command/export_plan.h"

#include <gtest/gtest.h>

#include "storage/safetensors.h"

namespace keepstep::client {
namespace {

v1::StoredTensor Stored(const std::string& fqn, std::vector<int64_t> shape,
                        v1::Component component = v1::COMPONENT_MODEL) {
  v1::StoredTensor out;
  out.mutable_meta()->set_fqn(fqn);
  out.mutable_meta()->set_dtype("F32");
  out.mutable_meta()->set_component(component);
  for (int64_t extent : shape) out.mutable_meta()->add_shape(extent);
  return out;
}

TEST(PlanExport, OneFileInTheOrderOfNames) {
  const auto files = PlanExport(
      {Stored("b", {2}), Stored("a", {3, 4}), Stored("m", {2}, v1::COMPONENT_OPTIMIZER)}, "model", 1000);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), 1u);
  EXPECT_EQ((*files)[0].name, "model.safetensors");
  ASSERT_EQ((*files)[0].tensors.size(), 2u);
  EXPECT_EQ((*files)[0].tensors[0].name, "a");
  EXPECT_EQ((*files)[0].tensors[0].size_bytes, 48);
}

TEST(PlanExport, ShardsBySizeAndNamesEachFile) {
  const auto files =
      PlanExport({Stored("a", {10}), Stored("b", {10}), Stored("c", {100}), Stored("d", {1})}, "all", 80);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), 3u);
  EXPECT_EQ((*files)[0].tensors.size(), 2u);
  EXPECT_EQ((*files)[1].name, "model-00002-of-00003.safetensors");
  EXPECT_EQ((*files)[1].tensors[0].name, "c");
}

TEST(PlanExport, AnAliasIsExportedUnderItsOwnName) {
  v1::StoredTensor tied = Stored("embed.weight", {4});
  tied.add_aliases("lm_head.weight");
  const auto files = PlanExport({tied}, "model", 1000);
  ASSERT_TRUE(files.ok());
  ASSERT_EQ((*files)[0].tensors.size(), 2u);
  EXPECT_EQ((*files)[0].tensors[1].name, "lm_head.weight");
  EXPECT_EQ((*files)[0].tensors[1].stored_name, "embed.weight");
}

TEST(PlanExport, NothingToExportIsNotFound) {
  EXPECT_EQ(PlanExport({Stored("a", {1})}, "optimizer", 100).status().code(), absl::StatusCode::kNotFound);
}

TEST(PlanExport, ADtypeThatSafetensorsLacksIsRefused) {
  v1::StoredTensor odd = Stored("a", {1});
  odd.mutable_meta()->set_dtype("C128");
  EXPECT_EQ(PlanExport({odd}, "model", 100).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlainHeader, IsWhatTheStrictParserReads) {
  const auto files =
      PlanExport({Stored("a", {2, 3}), Stored("weird \"name\"\\", {}), Stored("e", {0, 5})}, "all", 1000);
  ASSERT_TRUE(files.ok());
  const auto header = PlainHeader((*files)[0]);
  ASSERT_TRUE(header.ok());
  const auto parsed = storage::ParseHeader(*header, static_cast<int64_t>(header->size()) + 28);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->keepstep);
  EXPECT_EQ(parsed->header_bytes % 8, 0);
  ASSERT_EQ(parsed->entries.size(), 3u);
}

}  // namespace
}  // namespace keepstep::client
