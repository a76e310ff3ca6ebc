#include "client/command/format.h"

#include <gtest/gtest.h>

namespace keepstep::client {
namespace {

TEST(Format, Bytes) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(53364129792), "49.7 GiB");
}

TEST(Format, Times) {
  EXPECT_EQ(HumanSeconds(0.42), "0.4s");
  EXPECT_EQ(HumanSeconds(250), "4m10s");
  EXPECT_EQ(HumanSeconds(4 * 86400 + 3600), "4d01h");
  EXPECT_EQ(HumanAge(0, 5), "never");
  EXPECT_EQ(HumanAge(1000, 121000), "2m00s ago");
}

TEST(Format, ParsesSizes) {
  EXPECT_EQ(ParseBytes("1000"), 1000);
  EXPECT_EQ(ParseBytes("5GB"), 5000000000);
  EXPECT_EQ(ParseBytes("1.5 MiB"), 1572864);
  EXPECT_EQ(ParseBytes("five"), -1);
  EXPECT_EQ(ParseBytes("5 parsecs"), -1);
  EXPECT_EQ(ParseBytes("99999999999TB"), -1);
}

TEST(Format, TableAlignsColumns) {
  Table table({"JOB", "STEP"}, {1});
  table.Add({"a", "12400"});
  table.Add({"longer", "7"});
  EXPECT_EQ(table.Render(), "JOB      STEP\na       12400\nlonger      7\n");
}

}  // namespace
}  // namespace keepstep::client
