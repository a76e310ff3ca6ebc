// Every request of keepstep.v1.Sessions, in any order, to a whole daemon: see rpc_world.h.

#include "tests/fuzz/proto_mutator.h"
#include "tests/fuzz/rpc_cases.pb.h"
#include "tests/fuzz/rpc_world.h"

namespace keepstep::fuzz {
namespace {

void TestSessions(const SessionsCase& value) { RunCalls(value, "keepstep.v1.Sessions"); }

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::SessionsCase, keepstep::fuzz::TestSessions)
