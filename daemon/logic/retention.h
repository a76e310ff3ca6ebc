// Which checkpoints of a job stay, and why: a pure function of what is stored and what is in use.
//
//   kept     whoever's pin; one of the keep_last newest; a multiple of keep_every; what "latest" names; what
//   a
//            rank may still be given to load; what is being read; what may not outlive a power loss
//   deleted  what is left, rescues once a later checkpoint is the last good one, and what an earlier deletion did not finish
//
// "Newest" is the order that answers "latest": epochs, then steps, then attempts. A checkpoint whose
// durability is uncertain counts for nothing: it is neither one of the newest nor the last good one, so that
// the certain ones stay. The plan names candidates; the deletion itself (storage/delete.h) looks for pins
// once more.

#ifndef KEEPSTEP_DAEMON_LOGIC_RETENTION_H_
#define KEEPSTEP_DAEMON_LOGIC_RETENTION_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace keepstep::daemon {

struct RetentionPolicy {
  int64_t keep_last = 0;   // 0: no policy, everything is kept
  int64_t keep_every = 0;  // 0: by their number alone; else steps that are multiples are kept for good

  bool none() const { return keep_last == 0; }
  friend bool operator==(const RetentionPolicy&, const RetentionPolicy&) = default;
};

inline constexpr int64_t kMaxKeepLast = 1'000'000;

// What is wrong with a policy, in one sentence; nullopt: nothing.
std::optional<std::string> PolicyFault(const RetentionPolicy& policy);

// "keep_last=3, keep_every=1000", or "keep everything".
std::string PolicyText(const RetentionPolicy& policy);

struct StoredCommit {
  int64_t epoch = 0, step = 0;
  std::string attempt;
  int64_t bytes = 0;              // of its files
  std::vector<std::string> pins;  // of its step
  bool uncertain = false;         // its COMMIT may not outlive a power loss
  bool deleting = false;          // a deletion had begun
  bool rescue = false;            // made for dead trainers: neither one of the newest nor a multiple
};

struct RetentionInput {
  RetentionPolicy policy;
  std::vector<StoredCommit> commits;          // in the order of epochs, then steps, then attempts
  std::string last_good;                      // the attempt that "latest" names; empty: none
  std::map<std::string, std::string> in_use;  // attempt → why it has to stay
};

struct RetentionDecision {
  int64_t epoch = 0, step = 0;
  std::string attempt;
  int64_t bytes = 0;
  bool keep = true;
  bool begun = false;  // its deletion had begun: nobody can load it any more
  std::string reason;  // completes "kept: …" or "deleted: …"
};

// One decision for each commit, in the same order.
std::vector<RetentionDecision> PlanRetention(const RetentionInput& input);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_RETENTION_H_
