#include "daemon/name_pattern.h"

#include <string>

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

TEST(NamePattern, StarsAndQuestionMarks) {
  EXPECT_TRUE(MatchesPattern("layers.*.weight", "layers.0.mlp.weight"));
  EXPECT_TRUE(MatchesPattern("*", ""));
  EXPECT_TRUE(MatchesPattern("a?c", "abc"));
  EXPECT_TRUE(MatchesPattern("**b*", "ab"));
  EXPECT_TRUE(MatchesPattern("*ab", "aab"));
  EXPECT_TRUE(MatchesPattern("w[0]", "w[0]"));
  EXPECT_FALSE(MatchesPattern("", "a"));
  EXPECT_FALSE(MatchesPattern("a?", "a"));
  EXPECT_FALSE(MatchesPattern("layers.*.weight", "layers.0.bias"));
  EXPECT_FALSE(MatchesPattern("a", "ab"));
}

// A caller's pattern must not hold a thread of the daemon for ever.
TEST(NamePattern, ManyStarsCostNoMoreThanTheirLength) {
  std::string pattern;
  for (int i = 0; i < 500; ++i) pattern += "*a";
  EXPECT_FALSE(MatchesPattern(pattern + "b", std::string(1024, 'a')));
}

}  // namespace
}  // namespace keepstep::daemon
