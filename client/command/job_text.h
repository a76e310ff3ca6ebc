// What status, watch and top say of a job, in the cells of a table.

#ifndef KEEPSTEP_CLIENT_COMMAND_JOB_TEXT_H_
#define KEEPSTEP_CLIENT_COMMAND_JOB_TEXT_H_

#include <cstdint>
#include <string>

#include "proto/node.pb.h"

namespace keepstep::client {

std::string LastCommitText(const v1::JobStatus& job, int64_t now_unix_ms);  // "12400 (2m ago)"; "-"
std::string InFlightText(const v1::JobStatus& job);  // "12500 persist 63 %, 21.0 GiB/s, 14s left"; "-"
std::string SaveText(const v1::SaveInFlight& save);  // one of those

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_JOB_TEXT_H_
