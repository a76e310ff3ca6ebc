// A daemon in this process and clients that send it a case's calls over real sockets.
//
// Every answer is OK or an error with a code that the API has and a reason; after the case the daemon still
// serves. One daemon serves many cases, so that they find what earlier ones left; then a new one starts in a
// new directory.

#ifndef KEEPSTEP_TESTS_FUZZ_RPC_WORLD_H_
#define KEEPSTEP_TESTS_FUZZ_RPC_WORLD_H_

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace keepstep::fuzz {

// Runs the field `calls` of `value`, each a message with one thing to do, as a client of its own. `service`
// is checked to have a field for every method, so that a new method cannot be forgotten here.
void RunCalls(const google::protobuf::Message& value, absl::string_view service);

}  // namespace keepstep::fuzz

#endif  // KEEPSTEP_TESTS_FUZZ_RPC_WORLD_H_
