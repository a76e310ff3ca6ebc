#include "storage/memory_store.h"

#include "storage/blob_store_conformance.h"

namespace keepstep::storage {
namespace {

class MemoryFixture : public StoreFixture {
 public:
  BlobStore& store() override { return store_; }

 private:
  MemoryStore store_;
};

INSTANTIATE_TEST_SUITE_P(Memory, BlobStoreConformance,
                         ::testing::Values(StoreCase{"memory",
                                                     [] { return std::make_unique<MemoryFixture>(); }}),
                         CaseName);

}  // namespace
}  // namespace keepstep::storage
