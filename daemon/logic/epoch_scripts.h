// What the epochs of a job say to and read from storage, as pure store scripts (store_script.h).
//
//   PublishOnce    one record in one slot: ours, or whoever's was first
//   ScanScript     at start: the current epoch, its LATEST, what became of its attempts
//   ClaimScript    takes the next free epoch
//   FindStepScript the attempt that holds a step

#ifndef KEEPSTEP_DAEMON_LOGIC_EPOCH_SCRIPTS_H_
#define KEEPSTEP_DAEMON_LOGIC_EPOCH_SCRIPTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "daemon/logic/events.h"
#include "daemon/logic/world.h"
#include "proto/storage.pb.h"
#include "storage/attempt.h"
#include "storage/store_op.h"

namespace keepstep::daemon {

// Publishes `bytes` at `path` unless something is there. An unknown outcome is settled by reading the slot.
class PublishOnce {
 public:
  struct Outcome {
    absl::Status status;
    std::string bytes;       // what the slot holds, whoever wrote it
    bool uncertain = false;  // a flush failed on the way: it may not outlive a power loss
  };
  static constexpr int kMaxTries = 4;

  PublishOnce(std::string path, std::string bytes) : path_(std::move(path)), bytes_(std::move(bytes)) {}
  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  std::string path_, bytes_;
  int tries_ = 0;
  bool reading_ = false, flush_failed_ = false;
  absl::Status publish_status_;
};

class ScanScript {
 public:
  struct Outcome {
    absl::Status status;
    int64_t epoch = 0;  // 0: none was ever claimed
    int32_t world_size = 0;
    std::optional<LoadedStep> latest;  // absent: nobody was ever told
    std::vector<Verdict> decided;      // of this epoch's attempts; number is the attempt's counter
  };

  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  enum class State : uint8_t { kStart, kEpochs, kClaim, kLatest, kSteps, kStep, kDecision };
  using Step = std::variant<storage::StoreOp, Outcome>;

  Step ReadClaim();
  Step ListNextStep();
  Step ReadNextDecision();
  Step Fail(absl::Status status);

  State state_ = State::kStart;
  Outcome outcome_;
  std::vector<int64_t> epochs_, steps_;  // to do, last first
  int64_t step_ = 0;
  std::vector<std::string> attempts_;
};

// Publishes CLAIM of the first free epoch above `above`. An epoch is burned when its claim may not outlive a
// power loss: another world could take it again and mistake these attempts for its own.
class ClaimScript {
 public:
  struct Outcome {
    absl::Status status;
    int64_t epoch = 0;
  };
  static constexpr int kMaxEpochsTried = 64;

  // `claim`: its epoch is set here.
  ClaimScript(int64_t above, v1::Claim claim) : epoch_(above), claim_(std::move(claim)) {}
  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  std::variant<storage::StoreOp, Outcome> TryNextEpoch();

  int64_t epoch_;
  v1::Claim claim_;
  int tried_ = 0;
  bool listed_ = false;
  std::optional<PublishOnce> publish_;
};

// The highest committed attempt of `step` made before epoch `before_epoch`: what every rank of that epoch is
// given.
class FindStepScript {
 public:
  struct Outcome {
    absl::Status status;
    LoadedStep found;
  };

  FindStepScript(int64_t step, int64_t before_epoch) : step_(step), before_epoch_(before_epoch) {}
  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  enum class State : uint8_t { kStart, kStep, kAttempt, kDecision };
  std::variant<storage::StoreOp, Outcome> TryNextAttempt();

  const int64_t step_, before_epoch_;
  State state_ = State::kStart;
  std::vector<storage::AttemptId> attempts_;  // to do, last first
};

std::string EncodeLoadedStep(const LoadedStep& step);
absl::StatusOr<LoadedStep> DecodeLoadedStep(const std::string& bytes);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_EPOCH_SCRIPTS_H_
