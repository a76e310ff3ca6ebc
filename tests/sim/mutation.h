// Bugs planted by hand in what surrounds the machines: each breaks one rule that the machines keep. The
// simulation must find every one of them, or it proves nothing about the rule.

#ifndef KEEPSTEP_TESTS_SIM_MUTATION_H_
#define KEEPSTEP_TESTS_SIM_MUTATION_H_

#include <cstdint>

namespace keepstep::sim {

enum class Mutation : uint8_t {
  kNone,
  kReportBeforePublish,    // COMMITTED is told when the part is asked for
  kDeleteBeforeAbort,      // blobs go before ABORT is in the slot
  kPartBeforeSealed,       // a flushed rank counts as sealed
  kReleaseBeforeCopied,    // the gate opens when the copy starts
  kSkipJournal,            // the journal entry is acknowledged and not kept
  kEraseJournalFirst,      // the journal entry goes when the abort begins
  kRetryFailedFlush,       // a failed fsync is tried again, and believed
  kAcceptPoisoned,         // a poisoned verdict counts as sealed
  kLatestBeforePublished,  // LATEST is answered while its record is on its way
  kResumeStaleEpoch,       // a resume in an old epoch is let into the current one
  kSkipDirectorySync,      // SyncTree says OK and does nothing
  kIgnorePins,             // a deletion does not see pins
  kDeleteLastGood,         // where one checkpoint is deleted the newest one goes too
  kIgnoreReaders,          // what is being loaded is reserved for deletion all the same
  kForgetDeleting,         // DELETING is acknowledged and not written
  kSealWithoutWords,       // a rescued rank is sealed whatever has become of its words
  kRescueAcrossSteps,      // ranks that were whole at different steps are rescued as one
  kRescueHalfRun,          // an update that has begun and not ended counts as done
  kForgetRescueMark,       // a rescue's decision does not say that it is one
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_MUTATION_H_
