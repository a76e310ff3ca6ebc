// Plants one bug after the other and lets the simulation look for it.

#include <cstdio>

#include "gtest/gtest.h"
#include "tests/sim/sim_world.h"

namespace keepstep::sim {
namespace {

constexpr uint64_t kSeeds = 3'000;

class Mutants : public testing::TestWithParam<std::pair<Mutation, const char*>> {};

// A simulation that does not find a planted bug would not find a real one of its kind.
TEST_P(Mutants, IsFound) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const RunResult run = RunSeed(seed, GetParam().first);
    if (!run.findings.any()) continue;
    std::printf("%s: found by seed %llu: %s\n", GetParam().second, static_cast<unsigned long long>(seed),
                run.findings.first.front().c_str());
    return;
  }
  ADD_FAILURE() << GetParam().second << " was not found in " << kSeeds << " seeds";
}

INSTANTIATE_TEST_SUITE_P(All, Mutants,
                         testing::Values(std::pair(Mutation::kReportBeforePublish, "ReportBeforePublish"),
                                         std::pair(Mutation::kDeleteBeforeAbort, "DeleteBeforeAbort"),
                                         std::pair(Mutation::kPartBeforeSealed, "PartBeforeSealed"),
                                         std::pair(Mutation::kReleaseBeforeCopied, "ReleaseBeforeCopied"),
                                         std::pair(Mutation::kSkipJournal, "SkipJournal"),
                                         std::pair(Mutation::kEraseJournalFirst, "EraseJournalFirst"),
                                         std::pair(Mutation::kRetryFailedFlush, "RetryFailedFlush"),
                                         std::pair(Mutation::kAcceptPoisoned, "AcceptPoisoned"),
                                         std::pair(Mutation::kLatestBeforePublished, "LatestBeforePublished"),
                                         std::pair(Mutation::kResumeStaleEpoch, "ResumeStaleEpoch"),
                                         std::pair(Mutation::kSkipDirectorySync, "SkipDirectorySync"),
                                         std::pair(Mutation::kIgnorePins, "IgnorePins"),
                                         std::pair(Mutation::kDeleteLastGood, "DeleteLastGood"),
                                         std::pair(Mutation::kIgnoreReaders, "IgnoreReaders"),
                                         std::pair(Mutation::kForgetDeleting, "ForgetDeleting"),
                                         std::pair(Mutation::kSealWithoutWords, "SealWithoutWords"),
                                         std::pair(Mutation::kRescueAcrossSteps, "RescueAcrossSteps"),
                                         std::pair(Mutation::kRescueHalfRun, "RescueHalfRun"),
                                         std::pair(Mutation::kForgetRescueMark, "ForgetRescueMark")),
                         [](const auto& info) { return std::string(info.param.second); });

}  // namespace
}  // namespace keepstep::sim
