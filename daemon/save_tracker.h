// What has become of each session's saves, and who waits to hear of it.
//
// Lives on a job's strand; callbacks run there. Keeps the newest kKept numbers of a session.

#ifndef KEEPSTEP_DAEMON_SAVE_TRACKER_H_
#define KEEPSTEP_DAEMON_SAVE_TRACKER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/attempt_io.h"
#include "daemon/logic/events.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

bool IsOver(SaveState state);

class SaveTracker {
 public:
  using WaitDone = std::function<void(const absl::StatusOr<v1::SaveStatus>&)>;
  using Watcher = std::function<void(const v1::SaveStatus&)>;

  // Notes the state; later states replace earlier ones. Tells waiters and watchers. True when the state is
  // news.
  bool Update(SessionId session, const Verdict& verdict, const ShareProgress& progress);
  v1::SaveStatus Status(SessionId session, const Verdict& verdict, const ShareProgress& progress) const;

  // Calls `done` once, when the save has reached `state` or is over; at once if it has. NOT_FOUND: an unknown
  // save. A ticket to Unwait with, 0 when `done` has run.
  uint64_t Wait(SessionId session, uint64_t number, SaveState state, WaitDone done);
  uint64_t WaitForStep(SessionId session, int64_t step, SaveState state, WaitDone done);
  void Unwait(uint64_t ticket);  // `done` is dropped uncalled

  uint64_t Watch(SessionId session, Watcher watcher);
  void Unwatch(uint64_t ticket);

  // The session is over: its waiters get `why`, its saves are forgotten.
  void Forget(SessionId session, const absl::Status& why);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kKept = 64;

  struct Entry {
    v1::SaveStatus status;
    Clock::time_point accepted = Clock::now();
  };
  struct Waiter {
    SessionId session = 0;
    uint64_t number = 0;
    SaveState state = SaveState::kNone;
    WaitDone done;
  };

  static void Fill(const Verdict& verdict, const ShareProgress& progress, v1::SaveStatus& status);
  void Tell(SessionId session, const v1::SaveStatus& status);

  std::map<SessionId, std::map<uint64_t, Entry>> saves_;
  uint64_t next_ticket_ = 1;
  std::map<uint64_t, Waiter> waiters_;
  std::map<uint64_t, std::pair<SessionId, Watcher>> watchers_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_TRACKER_H_
