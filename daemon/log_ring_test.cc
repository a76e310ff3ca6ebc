#include "daemon/log_ring.h"

#include <fcntl.h>

#include "gtest/gtest.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

void Fill(LogRing& ring, int count, size_t bytes = 10) {
  for (int i = 0; i < count; ++i) ring.Append(Log::Level::kInfo, i, "job", std::string(bytes, 'x'));
}

TEST(LogRing, KeepsTheNewestInOrder) {
  LogRing ring;
  Fill(ring, 5000);
  EXPECT_EQ(ring.newest(), 5000u);
  const auto all = ring.After(0, 100'000);
  ASSERT_EQ(all.size(), kLogLinesKept);
  EXPECT_EQ(all.front().number, 5000 - kLogLinesKept + 1);
  EXPECT_EQ(all.back().number, 5000u);
  const auto some = ring.After(4990, 4);
  ASSERT_EQ(some.size(), 4u);
  EXPECT_EQ(some.front().number, 4997u);
  EXPECT_EQ(ring.After(4998, 100).size(), 2u);
  EXPECT_TRUE(ring.After(5000, 100).empty());
}

TEST(LogRing, IsBoundedInBytesAndCutsLongLines) {
  LogRing ring;
  Fill(ring, 2000, 100'000);
  size_t bytes = 0;
  for (const LogLine& line : ring.After(0, 100'000)) {
    EXPECT_LE(line.text.size(), kLogLineBytes);
    bytes += line.text.size();
  }
  EXPECT_LE(bytes, kLogBytesKept);
  EXPECT_GT(bytes, kLogBytesKept / 2);
}

TEST(LogRing, ListenersAreToldAndLimited) {
  LogRing ring;
  int heard = 0;
  const uint64_t first = ring.Listen([&] { ++heard; });
  for (size_t i = 1; i < kLogListeners; ++i) EXPECT_NE(ring.Listen([] {}), 0u);
  EXPECT_EQ(ring.Listen([] {}), 0u);
  Fill(ring, 3);
  EXPECT_EQ(heard, 3);
  ring.Unlisten(first);
  Fill(ring, 1);
  EXPECT_EQ(heard, 3);
}

// What a client can put into a line cannot make two of it.
TEST(LogRing, HearsWhatTheLogWrites) {
  LogRing ring;
  storage::UniqueFd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  Log log(Log::Format::kText, Log::Level::kInfo, nowhere.get());
  log.KeepIn(&ring);
  log.Warn("save\nfailed", {{"job", "vit"}, {"reason", "a\nb"}});
  log.Info("no job");
  const auto lines = ring.After(0, 10);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].job, "vit");
  EXPECT_EQ(lines[0].level, Log::Level::kWarning);
  EXPECT_EQ(lines[0].text, "save failed job=\"vit\" reason=\"a\\u000ab\"");
  EXPECT_EQ(lines[1].job, "");
}

}  // namespace
}  // namespace keepstep::daemon
