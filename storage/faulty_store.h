// A BlobStore that fails on demand: wraps another one and makes chosen operations return a chosen status.
//
// Fault model: an operation fails *before* it touches the wrapped store, or *after* it has done its work, as
// when the reply is lost. Operations count from 1 in the order in which they arrive, per kind and over all
// kinds. Nothing is delayed.

#ifndef KEEPSTEP_STORAGE_FAULTY_STORE_H_
#define KEEPSTEP_STORAGE_FAULTY_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

enum class FaultOp {
  kAny,
  kCreate,
  kWrite,
  kFinish,
  kOpen,
  kRead,
  kPublish,
  kReadPublished,
  kSyncTree,
  kList,
  kDelete,
  kSpace
};

enum class FaultTime { kBefore, kAfter };

// Which operations fail; shared by a store, its writers and its readers. Thread-safe.
class FaultPlan {
 public:
  // The n-th operation of `op` from now on, 1 being the next, fails once. kAny counts operations of every
  // kind.
  void FailNth(FaultOp op, int64_t n, absl::Status status, FaultTime time = FaultTime::kBefore);

  // The n-th and all later ones fail.
  void FailFrom(FaultOp op, int64_t n, absl::Status status, FaultTime time = FaultTime::kBefore);

  void Clear();  // faults, not counts

  // Operations that have arrived, failed ones included.
  int64_t Count(FaultOp op) const;

  struct Verdict {
    absl::Status before;  // not OK: do not call the wrapped store
    absl::Status after;   // not OK: call it, but report this
  };
  Verdict Arrive(FaultOp op);

 private:
  struct Fault {
    FaultOp op;
    int64_t first;
    bool once;
    absl::Status status;
    FaultTime time;
  };
  void Add(FaultOp op, int64_t n, bool once, absl::Status status, FaultTime time);

  mutable std::mutex mutex_;
  std::map<FaultOp, int64_t> counts_ ABSL_GUARDED_BY(mutex_);
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mutex_);
};

class FaultyStore : public BlobStore {
 public:
  // `wrapped` outlives this store.
  explicit FaultyStore(BlobStore* wrapped) : wrapped_(wrapped), plan_(std::make_shared<FaultPlan>()) {}

  FaultPlan& plan() { return *plan_; }

  absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const BlobPath& path, int64_t size_hint_bytes) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> Open(const BlobPath& path) override;
  absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) override;
  absl::StatusOr<std::string> ReadPublished(const BlobPath& path) override;
  absl::Status SyncTree(const BlobPath& directory) override;
  absl::StatusOr<std::vector<BlobInfo>> List(const BlobPath& directory) override;
  absl::Status Delete(const BlobPath& path) override;
  absl::StatusOr<int64_t> SpaceAvailable() override;

 private:
  BlobStore* const wrapped_;
  const std::shared_ptr<FaultPlan> plan_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FAULTY_STORE_H_
