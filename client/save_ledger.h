// What this client knows of its saves: the private count, the verdicts, what was released, compared and
// sealed.
//
// Every change of a verdict happens here, under one lock, so that each changes once:
//   OPEN → SEALED    when the daemon has answered, every group of the save is released, and its samples
//   compare OPEN → POISONED  when a sample differs, when the save is refused or lost, or when the watchdog
//   gives up:
//                    before any gate opens on its own
// A gate of group g is open when, for every save that holds g: the save is over, or the watchdog has opened
// it, or the daemon has answered and released g and the samples of g have been compared.
//
// cleared[g] ≤ issued; forced_open ≤ issued. All methods are thread-safe; none blocks on the daemon.

#ifndef KEEPSTEP_CLIENT_SAVE_LEDGER_H_
#define KEEPSTEP_CLIENT_SAVE_LEDGER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/samples.h"
#include "client/session_pages.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

bool IsFinal(v1::SaveState state);

// ABORTED (UPDATED_DURING_SAVE): the tensor of this name changed while it was copied.
absl::Status UpdatedDuringSave(absl::string_view fqn);

// Says of memory that the ledger cannot read itself whether an update has torn a group of a save. Thread-safe.
class GroupCheck {
 public:
  virtual ~GroupCheck() = default;

  // Called once, when the group's last copy is over. UpdatedDuringSave, or why it cannot be told.
  virtual absl::Status Check(uint64_t number, uint32_t group) = 0;
};

class SaveLedger {
 public:
  explicit SaveLedger(GroupCheck* check = nullptr);  // it outlives the ledger; null: all is sampled here
  ~SaveLedger();

  // A connection's pages, from now on. Verdicts move to the new client page; if the old daemon has ended,
  // saves whose verdict is open are poisoned first.
  void Install(std::shared_ptr<SessionPages> pages);
  std::shared_ptr<SessionPages> pages() const;

  // Raises the count and opens the verdict. From here on the gate of every group in `plan` is closed, until Sample at
  // least. RESOURCE_EXHAUSTED: the page has no slot, because a save kSaveSlots earlier is still in flight.
  absl::StatusOr<uint64_t> Issue(int64_t step, std::shared_ptr<const SamplePlan> plan);
  // Takes the samples of a save that was just issued, before anything of it may change; seals it, if the daemon has
  // released all of it meanwhile. Not under the lock: it takes longer than all else that the trainer waits for here.
  void Sample(uint64_t number);
  uint64_t issued() const { return issued_.load(); }

  // The daemon's word on a save: its answer to Save, a verdict, what Wait returned.
  void Apply(const v1::SaveStatus& status);
  // The save is over: the daemon refused it, or does not know it.
  void Fail(uint64_t number, const absl::Status& cause);
  // After a session resumed: what the daemon accounts for, and whether it is another process than before.
  void Resumed(const v1::Opened& opened, bool restarted);

  // The last known status; absent for a number never issued or long forgotten.
  std::optional<v1::SaveStatus> Status(uint64_t number) const;
  // The daemon has answered, or the save is known to be over, and why, without an answer.
  bool Answered(uint64_t number) const;
  // Every group of the save was released and compared, or the save is over.
  bool Compared(uint64_t number) const;
  // What the daemon's page says, without an RPC; unspecified when it says nothing of this save.
  v1::SaveState PageState(uint64_t number) const;
  // Takes the page's word that the daemon has accepted the save. False: it has not, or the save is over.
  bool AcceptedOnPage(uint64_t number);
  // Takes the page's word for how the save ended, once nobody can be asked: that it is committed holds
  // whatever becomes of the daemon; why it failed, a daemon that has ended no longer says. False: the page
  // does not say that it is over, or the daemon lives and knows the cause.
  bool EndedOnPage(uint64_t number);
  proto::Verdict VerdictOf(uint64_t number) const;

  // Whether `group` may change now; compares what has been released and not compared. group < kMaxGroups.
  bool TryClear(uint32_t group);
  // The same for the saves up to `number` alone.
  bool ClearThrough(uint32_t group, uint64_t number);
  // The same for all groups of all saves; seals what can be sealed. False while anything is closed.
  bool Advance();
  // A save is open and unsealed: there is something to wait for.
  bool Unsealed() const;

  // The watchdog: poisons every open verdict, then opens every gate up to the current count.
  void PoisonAndOpen(const absl::Status& cause);
  // The daemon owes this client a copy now, rather than the client waiting for earlier saves to be decided.
  bool OwesCopy() const;

 private:
  struct Record;
  using Records = std::map<uint64_t, std::unique_ptr<Record>>;

  v1::SaveState StateOnPage(uint64_t number) const;
  bool Released(const Record& record, uint32_t group) const;
  bool ClearGroup(Record* record, uint32_t group);
  bool ClearAll(Record* record);
  void ReadState(Record* record);
  void Seal(Record* record);
  void Finish(Record* record);
  void FailRecord(Record* record, const absl::Status& cause);
  void SetVerdict(Record* record, proto::Verdict verdict);
  Record* Find(uint64_t number) const;
  void Forget();

  GroupCheck* const check_;
  mutable std::mutex mu_;
  std::shared_ptr<SessionPages> pages_;  // guarded by mu_
  Records records_;                      // guarded by mu_; by number, the newest kept
  uint64_t forced_open_ = 0;             // guarded by mu_
  std::atomic<uint64_t> issued_{0};      // raised under mu_
  std::array<std::atomic<uint64_t>, proto::kMaxGroups> cleared_{};  // raised under mu_
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SAVE_LEDGER_H_
