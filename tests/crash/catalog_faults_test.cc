// The catalog, while one call on its files after the other fails.

#include <errno.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "storage/catalog.h"
#include "storage/temporary_directory.h"
#include "tests/crash/seam.h"

namespace keepstep::storage {
namespace {

constexpr char kJob[] = "/data/llama";

// The nth call that asks for something of the catalog's finds its file stale.
class FailNth : public crash::Hook {
 public:
  explicit FailNth(int nth) : left_(nth) {}

  crash::Verdict Before(const crash::Passing& passing) override {
    const bool mine = !crash::Changes(passing.call) && left_.fetch_sub(1) == 1;
    return {.error = mine ? ESTALE : 0};
  }
  int After(const crash::Passing&) override { return 0; }

  bool fired() const { return left_ <= 0; }

 private:
  std::atomic<int> left_;
};

// Journal and rosters have no other copy: one bad moment of a disk must not cost them.
TEST(CatalogFaults, OneFailedCallIsNoDamage) {
  const TemporaryDirectory home(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : testing::TempDir());
  const std::string directory = home.path() + "/catalog";
  int failures = 0, refused = 0, damaged = 0;
  for (int nth = 1; failures == nth - 1; ++nth) {
    SCOPED_TRACE(testing::Message() << "call " << nth);
    std::filesystem::remove_all(directory);
    auto made = Catalog::Open(directory);
    ASSERT_TRUE(made.ok()) << made.status();
    ASSERT_TRUE(made->catalog->PutJournal({kJob, "e1-a1-0000000000000001", 100, 1}).ok());
    made->catalog.reset();
    FailNth hook(nth);
    crash::SetHook(&hook);
    auto opened = Catalog::Open(directory);
    crash::SetHook(nullptr);
    failures += hook.fired();
    if (!opened.ok()) {
      ++refused;
      opened = Catalog::Open(directory);
    }
    ASSERT_TRUE(opened.ok()) << opened.status();
    damaged += opened->rebuilt;
    EXPECT_EQ(opened->catalog->Journal()->size(), 1u);
  }
  std::printf("%d calls failed: %d openings refused, %d took it for damage\n", failures, refused, damaged);
  EXPECT_EQ(damaged, 0);
  EXPECT_GT(failures, 20);
}

}  // namespace
}  // namespace keepstep::storage
