#include "storage/file_store.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <utility>

#include "storage/aligned_buffer.h"
#include "storage/blob_store_conformance.h"
#include "storage/temporary_directory.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;

class FileFixture : public StoreFixture {
 public:
  FileFixture(IoEngineOptions::Kind kind, bool direct, const std::string& parent)
      : directory_(parent), engine_(*MakeIoEngine({.kind = kind})) {
    store_ = *FileStore::Start(directory_.Open(), engine_.engine.get(), {.direct = direct});
  }

  BlobStore& store() override { return *store_; }
  const std::string& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
  IoEngineChoice engine_;
  std::unique_ptr<FileStore> store_;
};

StoreCase Case(const char* name, IoEngineOptions::Kind kind, bool direct, const std::string& parent) {
  return {name, [=] { return std::make_unique<FileFixture>(kind, direct, parent); }};
}

std::vector<StoreCase> Cases() {
  const std::string disk = ::testing::TempDir();
  std::vector<StoreCase> cases = {Case("threads", IoEngineOptions::Kind::kThreads, true, disk),
                                  Case("buffered", IoEngineOptions::Kind::kThreads, false, disk)};
  if (access("/dev/shm", W_OK) == 0) {
    cases.push_back(Case("tmpfs", IoEngineOptions::Kind::kAuto, true, "/dev/shm"));
  }
  // Where containers block rings, kAuto runs the suite on threads once more.
  cases.push_back(Case("auto", IoEngineOptions::Kind::kAuto, true, disk));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(File, BlobStoreConformance, ::testing::ValuesIn(Cases()), CaseName);

class FileStoreTest : public ::testing::Test {
 protected:
  FileStoreTest() : fixture_(IoEngineOptions::Kind::kAuto, true, ::testing::TempDir()) {}

  BlobStore& store() { return fixture_.store(); }
  std::string Disk(const std::string& leaf) { return fixture_.path() + "/" + leaf; }
  static BlobPath Path(absl::string_view text) { return BlobPath::Parse(text).value(); }

  FileFixture fixture_;
};

// The owner of a job's directory can put links in it; the daemon must not follow them with its own rights.
TEST_F(FileStoreTest, RefusesLinks) {
  TemporaryDirectory outside;
  std::ofstream(outside.path() + "/secret") << "secret";
  fs::create_directory_symlink(outside.path(), Disk("out"));
  fs::create_symlink(outside.path() + "/secret", Disk("blob"));
  fs::create_directory(Disk("real"));
  fs::create_directory_symlink("real", Disk("in"));
  EXPECT_EQ(store().Open(Path("out/secret")).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().Open(Path("blob")).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().Create(Path("out/new"), 0).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().Create(Path("in/new"), 0).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().PublishExclusive(Path("out/new"), "x").code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().PublishExclusive(Path("blob"), "x").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Delete(Path("out/secret")).code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(store().SyncTree(Path("out")).code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(store().Delete(Path("out")).ok());
  EXPECT_TRUE(fs::exists(outside.path() + "/secret"));
  EXPECT_FALSE(fs::exists(outside.path() + "/new"));
}

TEST_F(FileStoreTest, KnowsThatItsDirectoryIsDeleted) {
  const std::string path = ::testing::TempDir() + "/deleted";
  ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  const auto choice = *MakeIoEngine({.kind = IoEngineOptions::Kind::kThreads});
  const auto store =
      *FileStore::Start(UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY)), choice.engine.get(), {});
  EXPECT_FALSE(store->IsDeleted());
  ASSERT_EQ(rename(path.c_str(), (path + "-elsewhere").c_str()), 0);
  EXPECT_FALSE(store->IsDeleted());
  ASSERT_EQ(rmdir((path + "-elsewhere").c_str()), 0);
  EXPECT_TRUE(store->IsDeleted());
}

TEST_F(FileStoreTest, AFifoUnderABlobsNameDoesNotHang) {
  ASSERT_EQ(mkfifo(Disk("fifo").c_str(), 0600), 0);
  EXPECT_EQ(store().Open(Path("fifo")).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().ReadPublished(Path("fifo")).status().code(), StatusCode::kFailedPrecondition);
}

// A file cut short behind our back must not be read as zeros or as a short success.
TEST_F(FileStoreTest, AShrunkBlobIsDataLoss) {
  ASSERT_TRUE(PutBlob(store(), Path("blob"), std::string(10'000, 'x')).ok());
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store().Open(Path("blob"));
  ASSERT_TRUE(reader.ok());
  ASSERT_EQ(truncate(Disk("blob").c_str(), 5000), 0);
  std::byte into[10'000];
  EXPECT_EQ(ReadExactly(**reader, 0, into).code(), StatusCode::kDataLoss);
}

// What the process has had fetched from storage.
int64_t ReadBytes() {
  std::ifstream in("/proc/self/io");
  std::string name;
  for (int64_t value = 0; in >> name >> value;) {
    if (name == "read_bytes:") return value;
  }
  return 0;
}

// Looking whether a blob is in the page cache must not bring it there: it would come twice.
TEST_F(FileStoreTest, AColdBlobIsFetchedOnce) {
  constexpr int64_t kSize = int64_t{64} << 20, kRead = int64_t{1} << 20;
  std::ofstream(Disk("blob")) << std::string(kSize, 'x');
  const UniqueFd fd(open(Disk("blob").c_str(), O_RDONLY));
  ASSERT_EQ(fsync(fd.get()), 0);
  ASSERT_EQ(posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  auto reader = store().Open(Path("blob"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  const AlignedBuffer into = MakeAlignedBuffer(kRead);
  const int64_t before = ReadBytes();
  for (int64_t offset = 0; offset < kSize; offset += kRead)
    ASSERT_TRUE(ReadExactly(**reader, offset, {into.get(), static_cast<size_t>(kRead)}).ok());
  const int64_t fetched = ReadBytes() - before;
  if (fetched == 0) GTEST_SKIP() << "this file system has no storage beneath it";
  EXPECT_LE(fetched, kSize + kSize / 50);
}

// The same status as a full disk, without one: a limit on file sizes stops the write in the middle.
TEST_F(FileStoreTest, AWriteThatDoesNotFitIsResourceExhausted) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{16384, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  absl::Status reserved = store().Create(Path("reserved"), 1 << 20).status();
  absl::Status put = store().PublishExclusive(Path("record"), std::string(40'000, 'x'));
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(Path("unreserved"), 0);
  const std::string bytes(40'000, 'x');
  absl::Status written =
      WriteExactly(**writer, 0, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
  absl::Status finished = (*writer)->Finish(40'000);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(reserved.code(), StatusCode::kResourceExhausted) << reserved;
  EXPECT_EQ(put.code(), StatusCode::kResourceExhausted) << put;
  EXPECT_EQ(written.code(), StatusCode::kResourceExhausted) << written;
  EXPECT_EQ(finished.code(), StatusCode::kResourceExhausted) << finished;
  // Neither a reservation nor a record leaves anything behind.
  EXPECT_FALSE(fs::exists(Disk("reserved")));
  EXPECT_EQ(store().List(BlobPath::Root())->size(), 1u);
}

TEST_F(FileStoreTest, WritesInFlightOutliveTheirWriter) {
  const std::string bytes(size_t{4} << 20, 'x');
  std::promise<absl::Status> result;
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(Path("blob"), 0);
  ASSERT_TRUE(writer.ok());
  (*writer)->Write(0, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()},
                   [&](absl::Status status) { result.set_value(std::move(status)); });
  writer->reset();
  EXPECT_TRUE(result.get_future().get().ok());
}

TEST_F(FileStoreTest, UsesTheModesOfItsOptions) {
  ASSERT_TRUE(PutBlob(store(), Path("d/blob"), "x").ok());
  struct stat about;
  ASSERT_EQ(stat(Disk("d/blob").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777 & ~0644, 0u);
  EXPECT_EQ(about.st_nlink, 1u);
}

}  // namespace
}  // namespace keepstep::storage
