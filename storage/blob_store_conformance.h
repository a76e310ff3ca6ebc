// What every BlobStore must do, as one parameterised suite. A store's own test lists a fixture factory:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, BlobStoreConformance, ::testing::Values(StoreCase{"memory", MakeMemory}),
//                            CaseName);

#ifndef KEEPSTEP_STORAGE_BLOB_STORE_CONFORMANCE_H_
#define KEEPSTEP_STORAGE_BLOB_STORE_CONFORMANCE_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "gtest/gtest.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

// An empty store and whatever it stands on.
class StoreFixture {
 public:
  virtual ~StoreFixture() = default;
  virtual BlobStore& store() = 0;
};

struct StoreCase {
  std::string name;
  std::function<std::unique_ptr<StoreFixture>()> make;
};

inline void PrintTo(const StoreCase& store_case, std::ostream* out) { *out << store_case.name; }

inline std::string CaseName(const ::testing::TestParamInfo<StoreCase>& info) { return info.param.name; }

class BlobStoreConformance : public ::testing::TestWithParam<StoreCase> {
 protected:
  BlobStoreConformance() : fixture_(GetParam().make()) {}

  BlobStore& store() { return fixture_->store(); }
  static BlobPath Path(absl::string_view text) { return BlobPath::Parse(text).value(); }

 private:
  std::unique_ptr<StoreFixture> fixture_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_BLOB_STORE_CONFORMANCE_H_
