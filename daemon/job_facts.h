// Gathers what why.h explains: a job's view, its newest checkpoint, its file system, its ranks' processes.

#ifndef KEEPSTEP_DAEMON_JOB_FACTS_H_
#define KEEPSTEP_DAEMON_JOB_FACTS_H_

#include <string>

#include "daemon/job.h"
#include "daemon/why.h"

namespace keepstep::daemon {

// Reads the job's records for its newest checkpoint: blocks for storage and for the job's strand.
JobFacts Observe(Job& job);
// The same without touching storage: `last_step` is what this daemon has seen of this epoch. For frequent
// looks.
JobFacts Glance(Job& job);
// A directory of the journal that this daemon may not open.
JobFacts DetachedFacts(const std::string& directory);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_JOB_FACTS_H_
