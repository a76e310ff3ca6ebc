#include "daemon/log_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/log.h"
#include "storage/temporary_directory.h"

namespace keepstep::daemon {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
}

// Standard error is the test's own again afterwards.
class LogFileTest : public testing::Test {
 protected:
  ~LogFileTest() override {
    dup2(kept_, STDERR_FILENO);
    close(kept_);
  }

  const int kept_ = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  storage::TemporaryDirectory directory_;
  const std::string path_ = absl::StrCat(directory_.path(), "/keepstepd.log");
};

TEST_F(LogFileTest, HoldsTwiceItsLimitAtMost) {
  constexpr int64_t kLimit = 4096;
  auto file = LogFile::Open(path_, kLimit);
  ASSERT_TRUE(file.ok()) << file.status();
  Log log(Log::Format::kText);
  log.Bound(*std::move(file));
  for (int i = 0; i < 500; ++i) {
    log.Info(absl::StrCat("line ", i));
    ASSERT_LE(Contents(path_).size(), kLimit + 100);
  }
  const std::string older = Contents(absl::StrCat(path_, ".1")), newer = Contents(path_);
  EXPECT_TRUE(absl::StrContains(newer.empty() ? older : newer, "line 499\n"));
  EXPECT_GE(older.size(), kLimit);
  EXPECT_LE(older.size(), kLimit + 100);
  EXPECT_FALSE(absl::StrContains(older, "line 0\n")) << "the oldest go";
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(LogFileTest, TakesWhatLibrariesSay) {
  auto file = LogFile::Open(path_, 4096);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(write(STDERR_FILENO, "corrupted\n", 10), 10);
  EXPECT_EQ(Contents(path_), "corrupted\n");
}

TEST_F(LogFileTest, AnOldFileThatIsTooLongIsPutAside) {
  std::ofstream(path_) << std::string(5000, 'x');
  ASSERT_TRUE(LogFile::Open(path_, 4096).ok());
  EXPECT_EQ(Contents(path_), "");
  EXPECT_EQ(Contents(absl::StrCat(path_, ".1")).size(), 5000u);
}

TEST_F(LogFileTest, SaysWhyItCannotBeOpened) {
  const auto file = LogFile::Open(absl::StrCat(directory_.path(), "/none/log"), 4096);
  EXPECT_TRUE(absl::IsNotFound(file.status())) << file.status();
}

}  // namespace
}  // namespace keepstep::daemon
