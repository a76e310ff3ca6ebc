// Files of a job belong to the job: run as root, which is who can give files away; else skipped.

#include "storage/ownership.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "storage/file_store.h"
#include "storage/temporary_directory.h"

namespace keepstep::storage {
namespace {

constexpr uid_t kTrainer = 54321, kOther = 54322;
constexpr gid_t kGroup = 54323;

struct stat StatOf(const std::string& path) {
  struct stat about {};
  EXPECT_EQ(lstat(path.c_str(), &about), 0) << path;
  return about;
}

class OwnershipTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || chown(job_.path().c_str(), kTrainer, kGroup) != 0)
      GTEST_SKIP() << "only root can give files away, outside of a sandbox that knows one user";
  }
  // The job's directory, as a trainer made it.
  void Own(uid_t uid, gid_t gid, mode_t mode) {
    ASSERT_EQ(chown(job_.path().c_str(), uid, gid), 0);
    ASSERT_EQ(chmod(job_.path().c_str(), mode), 0);
    ownership_ = std::make_shared<Ownership>(StatOf(job_.path()));
    store_ = *FileStore::Start(job_.Open(), engine_.engine.get(), {.ownership = ownership_});
  }
  // Everything that a save creates: directories, a blob, a record; then a second blob beside them.
  void Write() {
    ASSERT_TRUE(PutBlob(*store_, Path("000000000100/e1-a1/blob"), "bytes").ok());
    ASSERT_TRUE(store_->PublishExclusive(Path("000000000100/e1-a1/DECISION"), "record").ok());
    ASSERT_TRUE(store_->PublishExclusive(Path("epochs/1/CLAIM"), "record").ok());
  }
  void ExpectEach(uid_t uid, gid_t gid, mode_t file_mode, mode_t directory_mode) {
    int seen = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(job_.path())) {
      const struct stat about = StatOf(entry.path());
      EXPECT_EQ(about.st_uid, uid) << entry.path();
      EXPECT_EQ(about.st_gid, gid) << entry.path();
      EXPECT_EQ(about.st_mode & 07777, S_ISDIR(about.st_mode) ? directory_mode : file_mode) << entry.path();
      ++seen;
    }
    EXPECT_EQ(seen, 7);
  }
  // Runs `what` in a child process of another uid, with the job's directory as its own (that uid may not
  // reach the test's by its path); returns whether it said true.
  bool As(uid_t uid, const std::function<bool(int directory)>& what) {
    const UniqueFd directory = job_.Open();
    const pid_t child = fork();
    if (child == 0) {
      const bool there = fchdir(directory.get()) == 0;
      if (!there || setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0) _exit(2);
      _exit(what(directory.get()) ? 0 : 1);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  static BlobPath Path(absl::string_view text) { return BlobPath::Parse(text).value(); }

  TemporaryDirectory job_;
  IoEngineChoice engine_ = *MakeIoEngine({.kind = IoEngineOptions::Kind::kThreads});
  std::shared_ptr<Ownership> ownership_;
  std::unique_ptr<FileStore> store_;
};

TEST_F(OwnershipTest, FilesOfARootDaemonBelongToTheDirectorysOwnerAndGroup) {
  Own(kTrainer, kGroup, 0755);
  Write();
  ExpectEach(kTrainer, kGroup, 0644, 0755);
}

TEST_F(OwnershipTest, TheClientsUmaskDecidesTheModes) {
  Own(kTrainer, kGroup, 0755);
  ownership_->SetUmask(027);
  Write();
  ExpectEach(kTrainer, kGroup, 0640, 0750);
}

TEST_F(OwnershipTest, AGroupDirectoryStaysOne) {
  Own(kTrainer, kGroup, 02775);
  ownership_->SetUmask(002);
  Write();
  ExpectEach(kTrainer, kGroup, 0664, 02775);
}

// After a restart no client has said its umask yet; what the directory denies is denied beneath it.
TEST_F(OwnershipTest, WithoutAClientThePrivateStaysPrivate) {
  Own(kTrainer, kGroup, 0700);
  Write();
  ExpectEach(kTrainer, kGroup, 0600, 0700);
}

TEST_F(OwnershipTest, TheOwnerCanDeleteAll) {
  Own(kTrainer, kGroup, 0755);
  Write();
  EXPECT_TRUE(As(kTrainer, [&](int) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("."))
      std::filesystem::remove_all(entry.path(), error);
    return !error && std::filesystem::is_empty(".");
  }));
}

// A daemon that ended between making a directory and giving it away leaves one that the job could not empty.
TEST_F(OwnershipTest, ADirectoryLeftBehindIsGivenAwayLater) {
  Own(kTrainer, kGroup, 0755);
  ASSERT_EQ(mkdir((job_.path() + "/000000000100").c_str(), 0700), 0);
  Write();
  ExpectEach(kTrainer, kGroup, 0644, 0755);
}

TEST_F(OwnershipTest, TheProbeLeavesNothingAndSaysWhatToDo) {
  Own(kTrainer, kGroup, 0755);
  const char* reason = "";
  EXPECT_TRUE(ProbeOwnership(job_.Open().get(), *ownership_, &reason).ok());
  EXPECT_TRUE(
      As(kTrainer, [&](int directory) { return ProbeOwnership(directory, *ownership_, &reason).ok(); }));
  EXPECT_TRUE(As(kOther, [&](int directory) {  // neither the owner nor allowed to write
    const absl::Status status = ProbeOwnership(directory, *ownership_, &reason);
    return absl::IsPermissionDenied(status) && std::string(reason) == "CANNOT_WRITE" &&
           absl::StrContains(status.message(), "run keepstepd as uid 54321");
  }));
  ASSERT_EQ(chmod(job_.path().c_str(), 0777), 0);
  EXPECT_TRUE(As(kOther, [&](int directory) {  // may write, but not give away
    const absl::Status status = ProbeOwnership(directory, *ownership_, &reason);
    return absl::IsPermissionDenied(status) && std::string(reason) == "CANNOT_OWN" &&
           absl::StrContains(status.message(), "Run keepstepd as root or as uid 54321");
  }));
  EXPECT_TRUE(As(kOther, [&](int directory) {  // and creates nothing that the job could not delete
    auto store = *FileStore::Start(UniqueFd(open(".", O_RDONLY | O_DIRECTORY)), engine_.engine.get(),
                                   {.ownership = ownership_});
    return absl::IsPermissionDenied(store->PublishExclusive(Path("epochs/1/CLAIM"), "record"));
  }));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(job_.path()))
    EXPECT_TRUE(entry.is_directory()) << entry.path() << " was left behind";
}

}  // namespace
}  // namespace keepstep::storage
