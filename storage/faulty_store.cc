// Each verb asks the plan, then the wrapped store.

#include "storage/faulty_store.h"

#include <utility>

namespace keepstep::storage {
namespace {

template <typename Call>
auto Guard(FaultPlan& plan, FaultOp op, const Call& call) -> decltype(call()) {
  FaultPlan::Verdict verdict = plan.Arrive(op);
  if (!verdict.before.ok()) return verdict.before;
  auto result = call();
  if (!verdict.after.ok()) return verdict.after;
  return result;
}

IoDone Guarded(const FaultPlan::Verdict& verdict, IoDone done) {
  return [after = verdict.after, done = std::move(done)](absl::Status status) {
    done(after.ok() ? std::move(status) : after);
  };
}

class FaultyWriter : public BlobWriter {
 public:
  FaultyWriter(std::unique_ptr<BlobWriter> wrapped, std::shared_ptr<FaultPlan> plan)
      : wrapped_(std::move(wrapped)), plan_(std::move(plan)) {}

  void Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, IoDone done) override {
    FaultPlan::Verdict verdict = plan_->Arrive(FaultOp::kWrite);
    failure_.Update(verdict.before);
    failure_.Update(verdict.after);
    if (!verdict.before.ok()) return done(verdict.before);
    wrapped_->Write(offset_bytes, bytes, Guarded(verdict, std::move(done)));
  }

  absl::Status Finish(int64_t size_bytes) override {
    return Guard(*plan_, FaultOp::kFinish,
                 [&]() -> absl::Status { return failure_.ok() ? wrapped_->Finish(size_bytes) : failure_; });
  }

 private:
  const std::unique_ptr<BlobWriter> wrapped_;
  const std::shared_ptr<FaultPlan> plan_;
  absl::Status failure_;
};

class FaultyReader : public BlobReader {
 public:
  FaultyReader(std::unique_ptr<BlobReader> wrapped, std::shared_ptr<FaultPlan> plan)
      : wrapped_(std::move(wrapped)), plan_(std::move(plan)) {}

  int64_t size_bytes() const override { return wrapped_->size_bytes(); }

  void Read(int64_t offset_bytes, absl::Span<std::byte> into, IoDone done) override {
    FaultPlan::Verdict verdict = plan_->Arrive(FaultOp::kRead);
    if (!verdict.before.ok()) return done(verdict.before);
    wrapped_->Read(offset_bytes, into, Guarded(verdict, std::move(done)));
  }

 private:
  const std::unique_ptr<BlobReader> wrapped_;
  const std::shared_ptr<FaultPlan> plan_;
};

}  // namespace

void FaultPlan::FailNth(FaultOp op, int64_t n, absl::Status status, FaultTime time) {
  Add(op, n, /*once=*/true, std::move(status), time);
}

void FaultPlan::FailFrom(FaultOp op, int64_t n, absl::Status status, FaultTime time) {
  Add(op, n, /*once=*/false, std::move(status), time);
}

void FaultPlan::Add(FaultOp op, int64_t n, bool once, absl::Status status, FaultTime time) {
  std::lock_guard<std::mutex> lock(mutex_);
  faults_.push_back({op, counts_[op] + n, once, std::move(status), time});
}

void FaultPlan::Clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  faults_.clear();
}

int64_t FaultPlan::Count(FaultOp op) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = counts_.find(op);
  return found == counts_.end() ? 0 : found->second;
}

FaultPlan::Verdict FaultPlan::Arrive(FaultOp op) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++counts_[op];
  ++counts_[FaultOp::kAny];
  Verdict verdict;
  for (const Fault& fault : faults_) {
    if (fault.op != op && fault.op != FaultOp::kAny) continue;
    const int64_t count = counts_[fault.op];
    if (fault.once ? count != fault.first : count < fault.first) continue;
    (fault.time == FaultTime::kBefore ? verdict.before : verdict.after).Update(fault.status);
  }
  return verdict;
}

absl::StatusOr<std::unique_ptr<BlobWriter>> FaultyStore::Create(const BlobPath& path,
                                                                int64_t size_hint_bytes) {
  using Result = absl::StatusOr<std::unique_ptr<BlobWriter>>;
  return Guard(*plan_, FaultOp::kCreate, [&]() -> Result {
    Result writer = wrapped_->Create(path, size_hint_bytes);
    if (!writer.ok()) return writer;
    return Result(std::make_unique<FaultyWriter>(*std::move(writer), plan_));
  });
}

absl::StatusOr<std::unique_ptr<BlobReader>> FaultyStore::Open(const BlobPath& path) {
  using Result = absl::StatusOr<std::unique_ptr<BlobReader>>;
  return Guard(*plan_, FaultOp::kOpen, [&]() -> Result {
    Result reader = wrapped_->Open(path);
    if (!reader.ok()) return reader;
    return Result(std::make_unique<FaultyReader>(*std::move(reader), plan_));
  });
}

absl::Status FaultyStore::PublishExclusive(const BlobPath& path, absl::string_view bytes) {
  return Guard(*plan_, FaultOp::kPublish, [&] { return wrapped_->PublishExclusive(path, bytes); });
}

absl::StatusOr<std::string> FaultyStore::ReadPublished(const BlobPath& path) {
  return Guard(*plan_, FaultOp::kReadPublished, [&] { return wrapped_->ReadPublished(path); });
}

absl::Status FaultyStore::SyncTree(const BlobPath& directory) {
  return Guard(*plan_, FaultOp::kSyncTree, [&] { return wrapped_->SyncTree(directory); });
}

absl::StatusOr<std::vector<BlobInfo>> FaultyStore::List(const BlobPath& directory) {
  return Guard(*plan_, FaultOp::kList, [&] { return wrapped_->List(directory); });
}

absl::Status FaultyStore::Delete(const BlobPath& path) {
  return Guard(*plan_, FaultOp::kDelete, [&] { return wrapped_->Delete(path); });
}

absl::StatusOr<int64_t> FaultyStore::SpaceAvailable() {
  return Guard(*plan_, FaultOp::kSpace, [&] { return wrapped_->SpaceAvailable(); });
}

}  // namespace keepstep::storage
