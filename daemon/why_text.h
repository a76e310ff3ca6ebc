// Pieces of sentences that why.cc and why_save.cc share.

#ifndef KEEPSTEP_DAEMON_WHY_TEXT_H_
#define KEEPSTEP_DAEMON_WHY_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/why.h"

namespace keepstep::daemon {

std::string Duration(double seconds);                     // "4m10s"
std::string Ago(const JobFacts& facts, int64_t unix_ms);  // "2m05s ago"
std::string ClockTime(int64_t unix_ms);                   // "03:21 UTC"
std::string Of(int64_t part_bytes, int64_t total_bytes);  // "2.1 of 6.4 GiB"
// "rank 13 (gpu-node-07, pid 4711)", with what is known.
std::string RankText(const JobFacts& facts, int32_t rank);
std::string LastGood(const JobFacts& facts);   // "last good step is 800", "nothing is committed yet"
std::string SpaceText(const JobFacts& facts);  // "1.2 GiB (3 %) are free in /ckpt/job"; empty: unknown
bool SpaceIsTight(const JobFacts& facts);      // less than 5 %, or than a save needs

// A save that does not move.
Problem ExplainStuck(const JobFacts& facts, const SaveInFlight& save);
// A save that ended without a commit. `in_a_row`: with those before it.
Problem ExplainFailed(const JobFacts& facts, const SaveOutcome& outcome, int in_a_row);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_WHY_TEXT_H_
