// An IoEngine of one or a few io_uring rings, each with its own thread, the only one that touches it.

#ifndef KEEPSTEP_STORAGE_URING_ENGINE_H_
#define KEEPSTEP_STORAGE_URING_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/io_engine.h"

namespace keepstep::storage {

class UringRing;

class UringEngine : public IoEngine {
 public:
  // UNAVAILABLE, saying which step failed, where the kernel or a container refuses a ring or the operations
  // that it needs.
  static absl::StatusOr<std::unique_ptr<UringEngine>> Start(int threads, int depth, size_t max_queued);
  ~UringEngine() override;

  void Submit(IoOp op) override;

  // How the rings were set up, for the log.
  const std::string& mode() const { return mode_; }

 private:
  explicit UringEngine(std::vector<std::unique_ptr<UringRing>> rings);

  std::vector<std::unique_ptr<UringRing>> rings_;
  std::string mode_;
  std::atomic<size_t> next_{0};
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_URING_ENGINE_H_
