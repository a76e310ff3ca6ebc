// What trainers that died have left in memory that the daemon owns, and the one decision whether the world after them
// goes on with it (docs/gpu.md, "Warm restart").
//
//   1. Keep: a rank has died. A job has one kept world, of the newest epoch.
//   2. HandOn: a process of the next world allocates; it gets the kept piece of its rank and name, for reading.
//   3. Ask: a rank of the next world has registered and wants to know. The last of its epoch to ask makes the decision,
//      the same for all; Decline, by a rank that loads otherwise, gives up or ends, makes it "cold". One decision an
//      epoch: whoever asks after it is cold.
//   4. Decided, or after the hold, or where memory is short, the kept world is gone. What was handed on is the new
//      processes' own then.

#ifndef KEEPSTEP_DAEMON_KEPT_WORLDS_H_
#define KEEPSTEP_DAEMON_KEPT_WORLDS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/device/trainer_pieces.h"
#include "daemon/registration.h"
#include "proto/flight_reader.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// A rank whose process has died. What its record proves is read when it is asked for.
struct KeptRank {
  int64_t epoch = 0;
  int32_t rank = 0, world_size = 1;
  std::shared_ptr<const Registration> registration;
  std::map<PieceName, LentPiece> pieces;
  storage::UniqueFd flight_record;
};

// What one rank of a warm world goes on with.
struct WarmRank {
  std::shared_ptr<const Registration> registration;  // of the process before it
  std::shared_ptr<const proto::FlightNote> note;     // its host memory, and what it would have saved
};

struct WarmWorld {
  int64_t step = 0;
  std::vector<WarmRank> ranks;
};

// A rank of a new world.
struct WarmAsk {
  int64_t epoch = 0;
  int32_t rank = 0, world_size = 1;
  std::shared_ptr<const Registration> registration;
  std::map<PieceName, LentPiece> pieces;
  // The newest commit, as the epoch's ranks are told it.
  bool committed = false;
  int64_t committed_step = 0, committed_epoch = 0;
};

struct WarmAnswer {
  std::shared_ptr<const WarmWorld> world;  // null: cold, as `why_cold` says
  std::string why_cold;
};

// Thread-safe. Jobs are named by their directories.
class KeptWorlds {
 public:
  using Clock = std::chrono::steady_clock;
  using Done = std::function<void(const WarmAnswer&)>;  // called without a lock, on the deciding thread; must not block

  explicit KeptWorlds(std::chrono::milliseconds hold) : hold_(hold) {}

  void Keep(const std::string& job, KeptRank rank, Clock::time_point now);

  // The kept piece of that name and size, once. Nothing: there is none.
  std::optional<LentPiece> HandOn(const std::string& job, int32_t rank, int32_t world_size, const PieceName& name,
                                  int64_t size_bytes);

  // `done` may be called at once, and later by another rank's call. Reads records: may block.
  void Ask(const std::string& job, WarmAsk ask, Done done);
  void Decline(const std::string& job, int64_t epoch, const std::string& why);

  // Lets go of the world that has been kept longest. False: there is none.
  bool DropOldest();
  // Lets go of what has been kept for `hold`.
  void Expire(Clock::time_point now);

  struct Counts {
    int64_t warm = 0, cold = 0;  // decisions about a kept world, since the start
    int64_t worlds = 0;          // kept now
  };
  Counts counts() const;
  std::chrono::milliseconds hold() const { return hold_; }
  // What is kept now and was not handed on.
  std::map<GpuUuid, int64_t> bytes_by_gpu() const;

 private:
  struct World {
    uint64_t number = 0;  // LentPiece::kept_of
    int64_t epoch = 0;
    int32_t size = 1;
    Clock::time_point since;
    std::map<int32_t, KeptRank> ranks;
  };
  using Asked = std::map<int32_t, std::pair<WarmAsk, Done>>;  // by rank
  struct Decision {
    int64_t epoch = 0;
    bool made = false;
    std::string why_cold;  // for those who ask late
    Asked asked;
  };
  struct Told {
    Done done;
    WarmAnswer answer;
  };

  Decision& DecisionOf(const std::string& job, int64_t epoch, std::vector<Told>& told);
  // "Cold", with nothing left of the kept world that it was about.
  void Settle(const std::string& job, Decision& decision, const WarmAnswer& cold, std::vector<Told>& told);
  void Drop(std::map<std::string, World>::iterator world, const std::string& why, std::vector<Told>& told);
  static absl::StatusOr<std::shared_ptr<const WarmWorld>> Judge(const World& world, const Asked& asked);

  const std::chrono::milliseconds hold_;
  mutable std::mutex mutex_;
  uint64_t last_number_ = 0;
  std::map<std::string, World> worlds_;
  std::map<std::string, Decision> decisions_;  // of the newest epoch that asked
  Counts counts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_KEPT_WORLDS_H_
