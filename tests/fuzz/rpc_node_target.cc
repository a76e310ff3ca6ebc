// Every request of keepstep.v1.Node, in any order, to a whole daemon: see rpc_world.h.

#include "tests/fuzz/proto_mutator.h"
#include "tests/fuzz/rpc_cases.pb.h"
#include "tests/fuzz/rpc_world.h"

namespace keepstep::fuzz {
namespace {

void TestNode(const NodeCase& value) { RunCalls(value, "keepstep.v1.Node"); }

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::NodeCase, keepstep::fuzz::TestNode)
