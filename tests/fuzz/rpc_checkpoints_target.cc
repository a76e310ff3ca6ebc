// Every request of keepstep.v1.Checkpoints, in any order, to a whole daemon: see rpc_world.h.

#include "tests/fuzz/proto_mutator.h"
#include "tests/fuzz/rpc_cases.pb.h"
#include "tests/fuzz/rpc_world.h"

namespace keepstep::fuzz {
namespace {

void TestCheckpoints(const CheckpointsCase& value) { RunCalls(value, "keepstep.v1.Checkpoints"); }

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::CheckpointsCase, keepstep::fuzz::TestCheckpoints)
