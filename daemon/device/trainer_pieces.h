// The pieces of owned memory that one trainer process has, by (GPU, ordinal), and what it was told of a warm restart.
//
// They belong to the process, not to a session: one that has lost its connection finds them again in its next session.

#ifndef KEEPSTEP_DAEMON_DEVICE_TRAINER_PIECES_H_
#define KEEPSTEP_DAEMON_DEVICE_TRAINER_PIECES_H_

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/owned_memory.h"

namespace keepstep::daemon {

// The process's `ordinal`th allocation on the GPU, from 1.
struct PieceName {
  GpuUuid gpu{};
  uint64_t ordinal = 0;
  friend auto operator<=>(const PieceName&, const PieceName&) = default;
};

struct LentPiece {
  std::shared_ptr<const OwnedPiece> piece;
  uint64_t kept_of = 0;  // the kept world that it was handed on from (daemon/kept_worlds.h); 0: it was new
};

inline constexpr size_t kMaxPieces = 8192;  // of a process: each is a descriptor of the daemon

// Thread-safe.
class TrainerPieces {
 public:
  using Make = std::function<absl::StatusOr<LentPiece>()>;

  // The piece of that name, from `make` unless it is there. INVALID_ARGUMENT (BAD_ALLOCATION): ordinal 0, or another
  // size than it was asked for with; RESOURCE_EXHAUSTED (GPU_POOL_FULL): too many; errors of `make`.
  absl::StatusOr<LentPiece> Allocate(const PieceName& name, int64_t size_bytes, const Make& make);
  // NOT_FOUND (UNKNOWN_PIECE).
  absl::StatusOr<LentPiece> Find(const PieceName& name) const;
  absl::Status Free(const PieceName& name);

  std::map<PieceName, LentPiece> All() const;

 private:
  struct Held {
    int64_t asked_bytes = 0;
    LentPiece lent;
  };

  std::mutex allocate_mutex_;  // one at a time, over `make`; taken before mutex_
  mutable std::mutex mutex_;
  std::map<PieceName, Held> pieces_;
};

// The pieces of every process that has a session, or had one a moment ago. Thread-safe.
class PiecesByProcess {
 public:
  using Nonce = std::array<uint8_t, 16>;

  // Those of this incarnation of a process: the same for all of its sessions.
  std::shared_ptr<TrainerPieces> Of(pid_t pid, const Nonce& nonce);

 private:
  std::mutex mutex_;
  std::map<std::pair<pid_t, Nonce>, std::weak_ptr<TrainerPieces>> known_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_TRAINER_PIECES_H_
