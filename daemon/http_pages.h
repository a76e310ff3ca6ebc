// What HTTP answers: /metrics, /healthz, /readyz, the page at / and its twin /status.json.
//
// The first three never block, so they answer when storage or a job is stuck; the page may wait for both.

#ifndef KEEPSTEP_DAEMON_HTTP_PAGES_H_
#define KEEPSTEP_DAEMON_HTTP_PAGES_H_

#include <vector>

#include "daemon/http_server.h"
#include "daemon/server_state.h"
#include "daemon/viewer.h"

namespace keepstep::daemon {

// Both outlive the server that takes them.
std::vector<HttpRoute> HttpPages(const ServerState* state, const OperatorToken* token);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HTTP_PAGES_H_
