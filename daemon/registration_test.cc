#include "daemon/registration.h"

#include <functional>
#include <limits>
#include <string>

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

void AddTensor(v1::RegisterRequest& request, const std::string& fqn, int64_t rows, uint32_t buffer = 1) {
  v1::Shard* shard = request.add_shards();
  shard->mutable_meta()->set_fqn(fqn);
  shard->mutable_meta()->set_dtype("F32");
  shard->mutable_meta()->add_shape(rows);
  shard->set_buffer_id(buffer);
  v1::Box* box = shard->mutable_boxes()->add_boxes()->mutable_box();
  box->add_origin(0);
  box->add_shape(rows);
}

void AddBuffer(v1::RegisterRequest& request, uint32_t id, int64_t size_bytes) {
  v1::Buffer* buffer = request.add_buffers();
  buffer->set_id(id);
  buffer->mutable_host()->set_address(4096 * (id + 1));
  buffer->mutable_host()->set_size_bytes(size_bytes);
}

v1::RegisterRequest Good() {
  v1::RegisterRequest request;
  request.set_generation(1);
  AddBuffer(request, 1, 40);
  AddTensor(request, "a", 10);
  return request;
}

RegistrationBuilder Builder(
    std::shared_ptr<RegistrationBudget> budget = std::make_shared<RegistrationBudget>(kRegistrationBytes)) {
  return RegistrationBuilder({.names = {"rank"}, .sizes = {2}}, 0, 2, std::move(budget));
}

TEST(Registration, BuffersBecomeIndicesAndBytesAreCounted) {
  auto builder = Builder();
  auto made = builder.Add(Good(), nullptr);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_NE(*made, nullptr);
  EXPECT_EQ((*made)->total_bytes, 40);
  EXPECT_EQ((*made)->addresses[(*made)->shards->shards[0].buffer], 8192u);
}

TEST(Registration, AChangedBudgetHoldsForWhatComes) {
  auto budget = std::make_shared<RegistrationBudget>(kRegistrationBytes);
  auto first = Builder(budget), second = Builder(budget);
  const auto held = first.Add(Good(), nullptr);
  ASSERT_TRUE(held.ok()) << held.status();
  const int64_t one = budget->used_bytes();
  budget->SetLimit(1);
  EXPECT_EQ(second.Add(Good(), nullptr).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(budget->used_bytes(), one) << "what was there stays";
  budget->SetLimit(2 * one);
  EXPECT_TRUE(second.Add(Good(), nullptr).ok());
}

// What one session holds another cannot have; refusals, half generations and ends give everything back.
TEST(Registration, AllSessionsShareABudget) {
  auto measure = std::make_shared<RegistrationBudget>(kRegistrationBytes);
  auto probe = *Builder(measure).Add(Good(), nullptr);
  const int64_t one = measure->used_bytes();
  EXPECT_GT(one, 0);
  probe.reset();
  EXPECT_EQ(measure->used_bytes(), 0);

  auto budget = std::make_shared<RegistrationBudget>(2 * one - 1);
  auto first = Builder(budget), second = Builder(budget);
  auto held = first.Add(Good(), nullptr);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(second.Add(Good(), nullptr).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(budget->used_bytes(), one);
  held->reset();
  EXPECT_EQ(budget->used_bytes(), 0);
  {
    v1::RegisterRequest half = Good();
    half.set_more(true);
    auto unfinished = Builder(budget);
    ASSERT_TRUE(unfinished.Add(half, nullptr).ok());
    EXPECT_EQ(budget->used_bytes(), one);
  }
  EXPECT_EQ(budget->used_bytes(), 0);
  EXPECT_TRUE(second.Add(Good(), nullptr).ok());
}

// A generation counts as a whole: half of one must never be saved.
TEST(Registration, NothingIsThereBeforeTheLastMessage) {
  auto builder = Builder();
  v1::RegisterRequest first = Good();
  first.set_more(true);
  auto half = builder.Add(first, nullptr);
  ASSERT_TRUE(half.ok());
  EXPECT_EQ(*half, nullptr);
  v1::RegisterRequest second;
  second.set_generation(1);
  AddTensor(second, "b", 10);
  auto whole = builder.Add(second, nullptr);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ((*whole)->shards->shards.size(), 2u);
}

TEST(Registration, IncrementalKeepsReplacesAndRemoves) {
  auto builder = Builder();
  v1::RegisterRequest first = Good();
  AddTensor(first, "b", 5);
  auto one = builder.Add(first, nullptr);
  ASSERT_TRUE(one.ok());
  v1::RegisterRequest second;
  second.set_generation(2);
  second.set_incremental(true);
  second.add_removed_fqns("a");
  AddBuffer(second, 9, 8);
  AddTensor(second, "c", 2, 9);
  auto two = builder.Add(second, *one);
  ASSERT_TRUE(two.ok()) << two.status();
  ASSERT_EQ((*two)->shards->shards.size(), 2u);
  EXPECT_EQ((*two)->total_bytes, 28);
  EXPECT_NE((*one)->fingerprint, (*two)->fingerprint);
}

struct Bad {
  const char* name;
  absl::StatusCode code;
  std::function<void(v1::RegisterRequest&)> spoil;
};

class BadRegistration : public testing::TestWithParam<Bad> {};

TEST_P(BadRegistration, IsRefusedAndTheNextOneIsTaken) {
  auto builder = Builder();
  v1::RegisterRequest request = Good();
  GetParam().spoil(request);
  auto refused = builder.Add(request, nullptr);
  EXPECT_EQ(refused.status().code(), GetParam().code) << refused.status();
  EXPECT_TRUE(builder.Add(Good(), nullptr).ok());
}

INSTANTIATE_TEST_SUITE_P(
    All, BadRegistration,
    testing::Values(
        Bad{"no_kind", absl::StatusCode::kInvalidArgument,
            [](auto& r) { r.mutable_buffers(0)->clear_host(); }},
        Bad{"negative_size", absl::StatusCode::kInvalidArgument,
            [](auto& r) { r.mutable_buffers(0)->mutable_host()->set_size_bytes(-1); }},
        Bad{"wrapping_address", absl::StatusCode::kInvalidArgument,
            [](auto& r) {
              r.mutable_buffers(0)->mutable_host()->set_address(std::numeric_limits<uint64_t>::max() - 8);
            }},
        Bad{"null_address", absl::StatusCode::kInvalidArgument,
            [](auto& r) { r.mutable_buffers(0)->mutable_host()->set_address(0); }},
        Bad{"past_the_buffer", absl::StatusCode::kOutOfRange,
            [](auto& r) { r.mutable_buffers(0)->mutable_host()->set_size_bytes(39); }},
        Bad{"unknown_buffer", absl::StatusCode::kNotFound,
            [](auto& r) { r.mutable_shards(0)->set_buffer_id(3); }},
        Bad{"duplicate", absl::StatusCode::kInvalidArgument, [](auto& r) { *r.add_shards() = r.shards(0); }},
        Bad{"overlapping_boxes", absl::StatusCode::kInvalidArgument,
            [](auto& r) {
              auto* boxes = r.mutable_shards(0)->mutable_boxes();
              *boxes->add_boxes() = boxes->boxes(0);
            }},
        Bad{"removes_unknown", absl::StatusCode::kNotFound, [](auto& r) { r.add_removed_fqns("zz"); }},
        Bad{"generation_zero", absl::StatusCode::kInvalidArgument, [](auto& r) { r.set_generation(0); }}),
    [](const auto& info) { return info.param.name; });

// With a stride of zero eight bytes of memory are any number of elements: their sum must not overflow.
TEST(Registration, AllBytesOfARankAreLimited) {
  auto builder = Builder();
  v1::RegisterRequest request = Good();
  for (const char* fqn : {"b", "c"}) {
    AddTensor(request, fqn, int64_t{1} << 60);
    request.mutable_shards(request.shards_size() - 1)
        ->mutable_boxes()
        ->mutable_boxes(0)
        ->add_strides_bytes(0);
  }
  auto made = builder.Add(request, nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(made.status())) << made.status();
}

}  // namespace
}  // namespace keepstep::daemon
