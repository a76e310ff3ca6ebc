// What the flight record of one dead rank proves.

#ifndef KEEPSTEP_DAEMON_RESCUE_JUDGE_H_
#define KEEPSTEP_DAEMON_RESCUE_JUDGE_H_

#include <cstdint>

#include "daemon/attempt_io.h"
#include "daemon/client_session.h"
#include "daemon/rescue_steps.h"
#include "proto/flight_reader.h"

namespace keepstep::daemon {

struct RankJudgement {
  SessionId session = 0;
  RankStep at;
  proto::FlightWords words;  // as they were read
  SaveArgs args;             // what a save of that step would have asked for, without its number
};

// Reads the record of `session`, whose process is dead. Blocks for a copy of its registered host memory.
RankJudgement JudgeRank(ClientSession& session);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RESCUE_JUDGE_H_
