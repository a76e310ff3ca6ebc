// What the Node service says of a job: facts (why.h) as messages.

#ifndef KEEPSTEP_DAEMON_NODE_VIEW_H_
#define KEEPSTEP_DAEMON_NODE_VIEW_H_

#include "daemon/why.h"
#include "proto/node.pb.h"

namespace keepstep::daemon {

void FillJob(const JobFacts& facts, v1::JobStatus& out);
v1::Problem ToProto(const Problem& problem);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_NODE_VIEW_H_
