// What the flight record of one dead rank proves, and whether those of all ranks prove one step.

#ifndef KEEPSTEP_DAEMON_RESCUE_JUDGE_H_
#define KEEPSTEP_DAEMON_RESCUE_JUDGE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "daemon/attempt_io.h"
#include "daemon/client_session.h"
#include "proto/flight_reader.h"

namespace keepstep::daemon {

struct RankJudgement {
  SessionId session = 0;
  int32_t rank = 0;
  int64_t step = -1;         // at which its memory is whole; -1: at none
  std::string why;           // completes "rank 2: …"; empty: it is whole
  proto::FlightWords words;  // as they were read
  SaveArgs args;             // what a save of that step would have asked for, without its number
};

// Reads the record of `session`, whose process is dead. Blocks for a copy of its registered host memory.
RankJudgement JudgeRank(ClientSession& session);

// Why the ranks are not at one step: "rank 2 was at step 41, the others at 42". Empty: they are.
std::string WhyNoRescue(absl::Span<const RankJudgement> ranks);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RESCUE_JUDGE_H_
