// That the seam sees every kind of call, names it rightly, and does to it what a hook says.

#include "tests/crash/seam.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::crash {
namespace {

class Recorder : public Hook {
 public:
  Recorder() { SetHook(this); }
  ~Recorder() override { SetHook(nullptr); }
  Verdict Before(const Passing& passing) override {
    seen.push_back(PointName(PointNumber(passing.call, passing.target, false)));
    return passing.call == call ? verdict : Verdict{};
  }
  int After(const Passing& passing) override { return passing.call == call ? after : 0; }

  std::vector<std::string> seen;
  Call call = Call::kList;
  Verdict verdict;
  int after = 0;
};

class SeamTest : public testing::Test {
 protected:
  void SetUp() override {
    char home[] = "/tmp/seamXXXXXX";
    home_ = mkdtemp(home);
    attempt_ = home_ + "/job/000000000003/e1-a2-0123456789abcdef";
    ASSERT_EQ(::system(("mkdir -p " + attempt_).c_str()), 0);
    directory_ = open(attempt_.c_str(), O_RDONLY | O_DIRECTORY);
  }
  void TearDown() override {
    close(directory_);
    ASSERT_EQ(::system(("rm -r " + home_).c_str()), 0);
  }

  std::string home_, attempt_;
  int directory_ = -1;
};

TEST(Point, NamesAreUniqueAndFound) {
  for (int number = 0; number < kPoints; ++number) {
    EXPECT_EQ(FindPoint(PointName(number)), number);
    EXPECT_EQ(FindPoint(std::to_string(number)), number);
  }
  EXPECT_FALSE(FindPoint("nothing").has_value());
  EXPECT_FALSE(FindPoint(std::to_string(kPoints)).has_value());
}

TEST(Point, PathsAreTold) {
  EXPECT_EQ(TargetOf("/r/job/000000000003/e1-a2-0123456789abcdef/model-00000-of-00002.safetensors"),
            Target::kBlob);
  EXPECT_EQ(TargetOf("/r/job/000000000003/e1-a2-0123456789abcdef"), Target::kAttemptDir);
  EXPECT_EQ(TargetOf("/r/job/000000000003/e1-a2-0123456789abcdef/DECISION"), Target::kDecision);
  EXPECT_EQ(TargetOf("/r/job/000000000003/e1-a2-0123456789abcdef/.keepstep-tmp-00"), Target::kUnnamed);
  EXPECT_EQ(TargetOf("/r/job/000000000003"), Target::kStepDir);
  EXPECT_EQ(TargetOf("/r/job/epochs/4/CLAIM"), Target::kClaim);
  EXPECT_EQ(TargetOf("/r/job/epochs/4"), Target::kEpochDir);
  EXPECT_EQ(TargetOf("/r/job/."), Target::kJobDir);
  EXPECT_EQ(TargetOf("/r/state/catalog/000012.log"), Target::kCatalogLog);
  EXPECT_EQ(TargetOf("/r/state/catalog/LOG"), Target::kNone);
  EXPECT_EQ(TargetOf("/usr/lib/libc.so"), Target::kNone);
}

TEST_F(SeamTest, EveryKindOfCallIsSeen) {
  Recorder recorder;
  const int fd = openat(directory_, "part-0.pb", O_RDWR | O_CREAT, 0644);
  ASSERT_GE(fd, 0);
  iovec piece{home_.data(), 4};
  struct stat about;
  EXPECT_EQ(fallocate(fd, 0, 0, 100), 0);
  EXPECT_EQ(write(fd, "abcd", 4), 4);
  EXPECT_EQ(pwritev2(fd, &piece, 1, 0, 0), 4);
  EXPECT_EQ(pread(fd, home_.data(), 4, 0), 4);
  EXPECT_EQ(fstat(fd, &about), 0);
  EXPECT_EQ(ftruncate(fd, 4), 0);
  EXPECT_EQ(fdatasync(fd), 0);
  EXPECT_EQ(close(fd), 0);
  EXPECT_EQ(linkat(directory_, "part-0.pb", directory_, "DECISION", 0), 0);
  EXPECT_EQ(unlinkat(directory_, "part-0.pb", 0), 0);
  open_how how{};
  const long again = syscall(SYS_openat2, directory_, "DECISION", &how, sizeof(how));
  ASSERT_GE(again, 0);
  DIR* listing = opendir(attempt_.c_str());
  while (readdir(listing) != nullptr) {
  }
  closedir(listing);
  const std::vector<std::string> expected = {
      "create part before", "reserve part before",  "write part before",    "write part before",
      "read part before",   "stat part before",     "truncate part before", "sync part before",
      "close part before",  "link DECISION before", "unlink part before",   "open DECISION before"};
  ASSERT_GE(recorder.seen.size(), expected.size());
  EXPECT_EQ(std::vector<std::string>(recorder.seen.begin(), recorder.seen.begin() + expected.size()),
            expected);
  EXPECT_EQ(recorder.seen.back(), "list attempt/ before");
  close(static_cast<int>(again));
}

TEST_F(SeamTest, CallsFailAsTold) {
  Recorder recorder;
  recorder.call = Call::kWrite;
  recorder.verdict.error = ENOSPC;
  const int fd = openat(directory_, "part-0.pb", O_RDWR | O_CREAT, 0644);
  EXPECT_EQ(write(fd, "abcd", 4), -1);
  EXPECT_EQ(errno, ENOSPC);
  recorder.verdict = {.most_bytes = 3};
  EXPECT_EQ(write(fd, "abcd", 4), 3);
  recorder.verdict = {};
  recorder.after = EIO;  // done, and said to have failed
  EXPECT_EQ(pwrite(fd, "efgh", 4, 3), -1);
  EXPECT_EQ(errno, EIO);
  struct stat about;
  ASSERT_EQ(fstat(fd, &about), 0);
  EXPECT_EQ(about.st_size, 7);
  recorder.call = Call::kClose;
  recorder.after = 0;
  recorder.verdict.error = EIO;
  EXPECT_EQ(close(fd), -1);
  EXPECT_EQ(fcntl(fd, F_GETFD), -1) << "a close that fails has closed";
}

}  // namespace
}  // namespace keepstep::crash
