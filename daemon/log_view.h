// Which lines of the log a caller may see.
//
// A line names its job by label. Root and the daemon's user see every line; others see the lines of a label
// when every job that has it is theirs, and none of the daemon's own. So two users' jobs of one name hide
// each other's lines rather than show them.

#ifndef KEEPSTEP_DAEMON_LOG_VIEW_H_
#define KEEPSTEP_DAEMON_LOG_VIEW_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/client_session.h"
#include "daemon/log_ring.h"
#include "daemon/server_state.h"
#include "proto/node.pb.h"

namespace keepstep::daemon {

class LogView {
 public:
  // `session` may be null: the jobs under listed roots. `label` empty: all.
  LogView(const ServerState& state, std::shared_ptr<ClientSession> session, std::string label);

  // Those of `lines` that the caller may see now. Blocks for the list of jobs.
  std::vector<v1::LogLine> Filter(const std::vector<LogLine>& lines) const;

 private:
  const ServerState& state_;
  const std::shared_ptr<ClientSession> session_;
  const std::string label_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOG_VIEW_H_
