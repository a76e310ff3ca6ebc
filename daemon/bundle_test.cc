#include "daemon/bundle.h"

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

TEST(Bundle, LeavesOutValuesWhoseKeysSpeakOfSecrets) {
  EXPECT_EQ(
      WithoutSecrets("roots: [/ckpt]\nhttp:\n  token_file: /etc/t  # file\n  listen: x\nS3_SECRET: abc"),
      "roots: [/ckpt]\nhttp:\n  token_file: (left out)\n  listen: x\nS3_SECRET: (left out)");
}

}  // namespace
}  // namespace keepstep::daemon
