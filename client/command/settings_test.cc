#include "client/command/settings.h"

#include <gtest/gtest.h>

namespace keepstep::client {
namespace {

constexpr char kPrinted[] = R"(# keepstepd 0.1.0: every value in effect, and where it comes from
socket_dir: /run/keepstep                    # default
state_dir: "/data/my # \"state\""            # keepstep.yaml:3
pool:
  bytes: auto                                # default
  idle: 5min                                 # default
exit:
  idle: never                                # KEEPSTEP_EXIT_IDLE
)";

TEST(FindSetting, ReadsValuesAndWhereTheyComeFrom) {
  EXPECT_EQ(FindSetting(kPrinted, "socket_dir").value, "/run/keepstep");
  EXPECT_TRUE(FindSetting(kPrinted, "socket_dir").is_default);
  EXPECT_EQ(FindSetting(kPrinted, "state_dir").value, "/data/my # \"state\"");
  EXPECT_FALSE(FindSetting(kPrinted, "state_dir").is_default);
}

TEST(FindSetting, KeepsGroupsApart) {
  EXPECT_EQ(FindSetting(kPrinted, "pool.idle").value, "5min");
  EXPECT_EQ(FindSetting(kPrinted, "exit.idle").value, "never");
  EXPECT_FALSE(FindSetting(kPrinted, "exit.idle").is_default);
  EXPECT_EQ(FindSetting(kPrinted, "exit.bytes").value, "");
  EXPECT_EQ(FindSetting(kPrinted, "idle").value, "");
}

TEST(NetworkFileSystems, AreTold) {
  EXPECT_TRUE(IsNetworkFileSystem(0x6969));
  EXPECT_TRUE(IsNetworkFileSystem(static_cast<int32_t>(0xFF534D42)));  // f_type is signed on some machines
  EXPECT_FALSE(IsNetworkFileSystem(0xEF53)) << "ext4";
  EXPECT_FALSE(IsNetworkFileSystem(0x01021994)) << "tmpfs";
  EXPECT_FALSE(IsOnNetwork("/proc/self/none/at/all"));
}

}  // namespace
}  // namespace keepstep::client
