#include "daemon/metered_store.h"

#include <gtest/gtest.h>

#include "storage/blob_store_conformance.h"
#include "storage/faulty_store.h"
#include "storage/memory_store.h"

namespace keepstep::storage {
namespace {

// The decorator must be a BlobStore like any other.
class MeteredFixture : public StoreFixture {
 public:
  BlobStore& store() override { return store_; }

 private:
  daemon::Metrics metrics_;
  daemon::MeteredStore store_{std::make_shared<MemoryStore>(), &metrics_};
};

INSTANTIATE_TEST_SUITE_P(Metered, BlobStoreConformance,
                         ::testing::Values(StoreCase{"Memory",
                                                     [] { return std::make_unique<MeteredFixture>(); }}),
                         CaseName);

}  // namespace
}  // namespace keepstep::storage

namespace keepstep::daemon {
namespace {

using storage::BlobPath;
using storage::FaultOp;

double ErrorsOf(Metrics& metrics, const std::string& operation, const std::string& code) {
  for (const auto& family : metrics.registry().Collect()) {
    if (family.name != "keepstep_storage_errors_total") continue;
    for (const auto& metric : family.metric) {
      const prometheus::ClientMetric::Label wanted_code{"code", code},
          wanted_operation{"operation", operation};
      if (std::count(metric.label.begin(), metric.label.end(), wanted_code) > 0 &&
          std::count(metric.label.begin(), metric.label.end(), wanted_operation) > 0)
        return metric.counter.value;
    }
  }
  return 0;
}

TEST(MeteredStore, CountsBytesOperationsAndErrors) {
  Metrics metrics;
  storage::MemoryStore memory;
  auto faulty = std::make_shared<storage::FaultyStore>(&memory);
  MeteredStore store(faulty, &metrics);
  const BlobPath blob = BlobPath::Parse("a/b").value(), record = BlobPath::Parse("a/r").value();

  ASSERT_TRUE(storage::PutBlob(store, blob, std::string(10'000, 'x')).ok());
  ASSERT_TRUE(store.PublishExclusive(record, "hello").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(store.PublishExclusive(record, "hello")));
  EXPECT_GE(metrics.store_written_bytes->Value(), 10'005);  // a blob's last write is padded
  EXPECT_LT(metrics.store_written_bytes->Value(), 10'005 + storage::kDirectAlignment);
  EXPECT_EQ(store.ReadPublished(record).value(), "hello");
  EXPECT_EQ(storage::ReadBlob(store, blob)->size(), 10'000u);
  EXPECT_EQ(metrics.store_read_bytes->Value(), 10'005);
  EXPECT_EQ(metrics.store_seconds(StoreCall::kPublish).Collect().histogram.sample_count, 2u);
  EXPECT_EQ(ErrorsOf(metrics, "publish", "ALREADY_EXISTS"), 0) << "an answer, not an error";

  faulty->plan().FailNth(FaultOp::kWrite, 1, absl::ResourceExhaustedError("full"));
  EXPECT_FALSE(storage::PutBlob(store, BlobPath::Parse("a/c").value(), "x").ok());
  EXPECT_EQ(ErrorsOf(metrics, "write", "RESOURCE_EXHAUSTED"), 1);
}

TEST(Metrics, ReasonsAreBounded) {
  Metrics metrics;
  for (int i = 0; i < 10'000; ++i) metrics.SaveOver("failed", "MADE_UP_" + std::to_string(i));
  for (const auto& family : metrics.registry().Collect()) {
    if (family.name != "keepstep_saves_total") continue;
    EXPECT_LE(family.metric.size(), Metrics::kMaxReasons + 6);
  }
}

}  // namespace
}  // namespace keepstep::daemon
