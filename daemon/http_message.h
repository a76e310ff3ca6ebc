// The bytes of HTTP/1.1 requests and responses, as far as http_server.h needs them. Pure.

#ifndef KEEPSTEP_DAEMON_HTTP_MESSAGE_H_
#define KEEPSTEP_DAEMON_HTTP_MESSAGE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "daemon/http_server.h"

namespace keepstep::daemon {

struct HttpHead {
  int refused = 0;  // a status: what is wrong with it; 0: nothing
  bool head_only = false;
  std::string host;
  HttpRequest request;
};

// A complete head, with its empty line. Never fails: what is not understood is refused with 400, 405, 413 or
// 505.
HttpHead ParseHead(absl::string_view head);

// Whether `host` (a Host header) is this machine's loopback, with or without a port.
bool NamesLoopback(absl::string_view host);

std::string Serialize(const HttpResponse& response, bool head_only);

// A short page that says what the status means.
HttpResponse Plain(int status);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HTTP_MESSAGE_H_
