#include "client/extras.h"

#include <gtest/gtest.h>

#include "proto/sessions.pb.h"

namespace keepstep::client {
namespace {

// The example at the head of extras.h, which other languages decode by.
TEST(EncodeExtras, MatchesTheDocumentedExample) {
  v1::GetExtraResponse response;
  response.set_step(7);
  v1::Extra* extra = response.add_extras();
  extra->set_name("rng");
  extra->set_rank(2);
  extra->add_items("\xab");
  constexpr char kExample[] =
      "\7\0\0\0\0\0\0\0"
      "\1\0\0\0"
      "\3\0\0\0rng"
      "\2\0\0\0"
      "\0\0\0\0"
      "\0"
      "\1\0\0\0"
      "\1\0\0\0\0\0\0\0\xab";
  const std::string expected(kExample, sizeof(kExample) - 1);
  EXPECT_EQ(expected.size(), 41u);
  EXPECT_EQ(EncodeExtras(response), expected);
}

}  // namespace
}  // namespace keepstep::client
