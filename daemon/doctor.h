// Checks what this machine allows and says how to mend it, and which limits are in force.
//
// Blocks for a moment; changes nothing but scratch files, which it removes. OK: works. WARNING: slower or
// less safe. FAILED: saves or loads do not work. What it finds is found by trying, where trying is harmless.

#ifndef KEEPSTEP_DAEMON_DOCTOR_H_
#define KEEPSTEP_DAEMON_DOCTOR_H_

#include <cstdint>
#include <string>

#include "daemon/client_session.h"
#include "daemon/server_state.h"
#include "proto/node.pb.h"

namespace keepstep::daemon {

// `session` (null: none) decides whose jobs are looked at.
v1::DoctorResponse Examine(const ServerState& state, const ClientSession* session);

// The families of checks, in the order of the answer.
void CheckMachine(const ServerState& state, v1::DoctorResponse& response);  // doctor_machine.cc
void CheckMemory(const ServerState& state, v1::DoctorResponse& response);   // doctor_memory.cc
void CheckGpu(const ServerState& state, v1::DoctorResponse& response);      // doctor_gpu.cc
void CheckStorage(const ServerState& state, const ClientSession* session,
                  v1::DoctorResponse& response);  // doctor_storage.cc

// Adds a check; the remedy is for those that are not OK.
void AddCheck(v1::DoctorResponse& response, const std::string& name, v1::Check::Result result,
              const std::string& found, const std::string& remedy = "");

std::string DurationText(int64_t millis);  // "5 min", "90 s", "0.3 s"

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DOCTOR_H_
