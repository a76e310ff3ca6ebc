// The gate before an update: blocks while a save in flight still reads the group.

#ifndef KEEPSTEP_CLIENT_GATE_H_
#define KEEPSTEP_CLIENT_GATE_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "client/deadline.h"
#include "client/limits.h"
#include "client/save_ledger.h"

namespace keepstep::client {

// Thread-safe.
class Gate {
 public:
  Gate(SaveLedger* ledger, const Limits& limits) : ledger_(ledger), limits_(limits) {}

  // Returns when tensors of `group` may change. Without a save in flight: one comparison. DEADLINE_EXCEEDED:
  // it is still closed. INVALID_ARGUMENT: no such group.
  absl::Status Wait(uint32_t group, Deadline deadline);

  // Returns when `opened` does, which is asked at once and whenever a gate may have opened.
  absl::Status WaitFor(const std::function<bool()>& opened, Deadline deadline);

  // Returns when every registered tensor may change.
  absl::Status WaitAll(Deadline deadline);

  // Returns when the daemon has copied save `number` and its samples are compared, or it is over.
  absl::Status WaitSave(uint64_t number, Deadline deadline);

  bool IsOpen(uint32_t group);

 private:
  template <typename Clear>
  absl::Status WaitUntil(const Clear& clear, Deadline deadline);

  SaveLedger* ledger_;
  const Limits limits_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_GATE_H_
