#include "daemon/device/trainer_pieces.h"

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

absl::Status Bad(const PieceName& name, absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ALLOCATION",
                   absl::StrCat("Allocation ", name.ordinal, " on ", GpuName(name.gpu), " ", what), "allocate");
}

absl::Status Unknown(const PieceName& name) {
  return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_PIECE",
                   absl::StrCat("This process has no allocation ", name.ordinal, " on ", GpuName(name.gpu), "."),
                   "allocate");
}

}  // namespace

absl::StatusOr<LentPiece> TrainerPieces::Allocate(const PieceName& name, int64_t size_bytes, const Make& make) {
  if (name.ordinal == 0) return Bad(name, "is none: they are counted from 1.");
  std::lock_guard allocating(allocate_mutex_);
  {
    std::lock_guard lock(mutex_);
    if (const auto found = pieces_.find(name); found != pieces_.end()) {
      if (found->second.asked_bytes == size_bytes) return found->second.lent;
      return Bad(name, absl::StrCat("has ", found->second.asked_bytes, " bytes, not ", size_bytes, "."));
    }
    if (pieces_.size() >= kMaxPieces) {
      return MakeError(absl::StatusCode::kResourceExhausted, "GPU_POOL_FULL",
                       absl::StrCat("A process has at most ", kMaxPieces, " allocations of owned memory: make larger ones."),
                       "allocate");
    }
  }
  auto lent = make();
  if (!lent.ok()) return lent.status();
  std::lock_guard lock(mutex_);
  pieces_[name] = {size_bytes, *lent};
  return lent;
}

absl::StatusOr<LentPiece> TrainerPieces::Find(const PieceName& name) const {
  std::lock_guard lock(mutex_);
  const auto found = pieces_.find(name);
  if (found == pieces_.end()) return Unknown(name);
  return found->second.lent;
}

absl::Status TrainerPieces::Free(const PieceName& name) {
  std::lock_guard lock(mutex_);
  return pieces_.erase(name) == 1 ? absl::OkStatus() : Unknown(name);
}

std::map<PieceName, LentPiece> TrainerPieces::All() const {
  std::lock_guard lock(mutex_);
  std::map<PieceName, LentPiece> all;
  for (const auto& [name, held] : pieces_) all[name] = held.lent;
  return all;
}

std::shared_ptr<TrainerPieces> PiecesByProcess::Of(pid_t pid, const Nonce& nonce) {
  std::lock_guard lock(mutex_);
  std::erase_if(known_, [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<TrainerPieces>& known = known_[{pid, nonce}];
  std::shared_ptr<TrainerPieces> pieces = known.lock();
  if (pieces == nullptr) known = pieces = std::make_shared<TrainerPieces>();
  return pieces;
}

}  // namespace keepstep::daemon
