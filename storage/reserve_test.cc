#include "storage/reserve.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "gtest/gtest.h"
#include "storage/catalog.h"
#include "storage/disk_full.h"
#include "storage/file_store.h"
#include "storage/temporary_directory.h"

namespace keepstep::storage {
namespace {

constexpr char kSize[] = "size=8m";

// A small file system that this process alone sees. What a process of its own may mount, root or not, differs
// from machine to machine: where it may not, there is no test.
class SmallDisk {
 public:
  SmallDisk() {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return;
    mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    mounted_ = mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, kSize) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(directory_.path().c_str(), MNT_DETACH);
  }

  bool mounted() const { return mounted_; }
  const std::string& path() const { return directory_.path(); }
  UniqueFd Open() const { return directory_.Open(); }

  // To the last page.
  void Fill() {
    const UniqueFd fd(open((path() + "/filler").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    const std::string page(4096, 'x');
    while (write(fd.get(), page.data(), page.size()) > 0) {
    }
  }
  void Free() { unlink((path() + "/filler").c_str()); }

 private:
  TemporaryDirectory directory_;
  bool mounted_ = false;
};

class ReserveTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!disk_.mounted()) GTEST_SKIP() << "this process may not mount";
  }

  static BlobPath Path(absl::string_view text) { return BlobPath::Parse(text).value(); }

  // In a job of its own, whose names are not those of another.
  std::unique_ptr<FileStore> Store(int64_t reserve_bytes) {
    return *FileStore::Start(disk_.Open(), engine_.engine.get(),
                             {.reserve_path = Path("epochs/RESERVE"), .reserve_bytes = reserve_bytes});
  }

  SmallDisk disk_;
  IoEngineChoice engine_ = *MakeIoEngine({.kind = IoEngineOptions::Kind::kThreads});
};

// Without room for the record that aborts a save or marks a deletion, a full disk would stay full.
TEST_F(ReserveTest, RecordsHaveRoomOnAFullDisk) {
  const std::unique_ptr<FileStore> bare = Store(0), store = Store(64 << 10);
  ASSERT_TRUE(store->PublishExclusive(Path("first"), "record").ok());
  disk_.Fill();
  const absl::Status none = bare->PublishExclusive(Path("second"), "record");
  EXPECT_TRUE(IsDiskFull(none)) << none;
  EXPECT_TRUE(store->PublishExclusive(Path("second"), "record").ok());
  EXPECT_EQ(*store->ReadPublished(Path("second")), "record");
  EXPECT_FALSE(store->Open(Path("epochs/RESERVE")).ok()) << "it was given up";
  disk_.Fill();
  EXPECT_TRUE(IsDiskFull(store->PublishExclusive(Path("third"), "record"))) << "it is spent";
  disk_.Free();
  ASSERT_TRUE(store->PublishExclusive(Path("third"), "record").ok());
  disk_.Fill();
  EXPECT_TRUE(store->PublishExclusive(Path("fourth"), "record").ok()) << "there was room for a new one";
}

// A process that died between making the file and giving it its room left an empty one.
TEST_F(ReserveTest, AnEmptyFileGetsItsRoom) {
  std::filesystem::create_directories(disk_.path() + "/epochs");
  close(open((disk_.path() + "/epochs/RESERVE").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(Store(64 << 10)->PublishExclusive(Path("first"), "record").ok());
  disk_.Fill();
  EXPECT_TRUE(Store(64 << 10)->PublishExclusive(Path("second"), "record").ok());
}

TEST_F(ReserveTest, BlobsDoNotGetIt) {
  const std::unique_ptr<FileStore> store = Store(64 << 10);
  ASSERT_TRUE(store->PublishExclusive(Path("first"), "record").ok());
  disk_.Fill();
  EXPECT_TRUE(IsDiskFull(store->Create(Path("blob"), 4096).status()));
  EXPECT_TRUE(store->Open(Path("epochs/RESERVE")).ok());
}

// A daemon that does not start on a full disk cannot delete what fills it.
TEST_F(ReserveTest, TheCatalogOpensOnAFullDisk) {
  const std::string directory = disk_.path() + "/catalog";
  absl::StatusOr<Catalog::Opened> opened = Catalog::Open(directory);
  ASSERT_TRUE(opened.ok()) << opened.status();
  for (int number = 1; number <= 2; ++number) {
    ASSERT_TRUE(opened->catalog->PutRoster("/data/llama", {.epoch = number, .world_size = 1}).ok());
    disk_.Fill();
    for (int start = 0; start < 3; ++start) {
      opened->catalog.reset();
      disk_.Fill();
      opened = Catalog::Open(directory);
      ASSERT_TRUE(opened.ok()) << number << ", start " << start << ": " << opened.status();
      EXPECT_FALSE(opened->rebuilt);
      EXPECT_EQ((*opened->catalog->Roster("/data/llama"))->epoch, number);
      const absl::Status written =
          opened->catalog->PutRoster("/data/other", {.epoch = start, .world_size = 1});
      EXPECT_TRUE(written.ok() || IsDiskFull(written)) << written;
    }
    disk_.Free();
  }
}

}  // namespace
}  // namespace keepstep::storage
