// A machine without CUDA's driver: nothing is found, and nothing breaks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/device/devices.h"
#include "client/device/driver_facts.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

TEST(NoDriver, GpuMemoryIsRefusedByName) {
  const DriverFacts facts = LookAtDriver();
  if (facts.text.rfind("CUDA ", 0) == 0) GTEST_SKIP() << "there is a driver: " << facts.text;
  Devices devices;
  const absl::Status status = devices.Find({{0x1000, 4, "lm_head.weight"}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BlameOf(status).reason, "BAD_SHARD");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("lm_head.weight"));
  EXPECT_TRUE(devices.Find({}).ok());
  v1::SaveRequest request;
  EXPECT_TRUE(devices.Mark({}, {}, true, &request).ok());
  EXPECT_TRUE(devices.Synchronize({}).ok());
  EXPECT_TRUE(facts.works);
  EXPECT_THAT(facts.text, testing::HasSubstr("host memory alone"));
}

}  // namespace
}  // namespace keepstep::client
