// The bytes of HTTP/1.1 requests and responses, as far as http_server.h needs them. Pure.

#ifndef KEEPSTEP_DAEMON_HTTP_MESSAGE_H_
#define KEEPSTEP_DAEMON_HTTP_MESSAGE_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace keepstep::daemon {

struct HttpRequest {
  std::string path;               // without the query
  std::string authorization;      // the header's value, or empty
  std::optional<uid_t> peer_uid;  // of a Unix socket
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

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
