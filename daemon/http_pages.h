// What HTTP answers: /metrics, /healthz, /readyz, the page at / and its twin /status.json.
//
// The first three never block, so they answer when storage or a job is stuck; the page may wait for both.

#ifndef KEEPSTEP_DAEMON_HTTP_PAGES_H_
#define KEEPSTEP_DAEMON_HTTP_PAGES_H_

#include <string>
#include <vector>

#include "daemon/http_server.h"
#include "daemon/server_state.h"

namespace keepstep::daemon {

// `state` outlives the server that takes them. `token`: the operator's, or empty.
std::vector<HttpRoute> HttpPages(const ServerState* state, std::string token);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HTTP_PAGES_H_
