// The listening socket of an HttpServer.

#ifndef KEEPSTEP_DAEMON_HTTP_LISTENER_H_
#define KEEPSTEP_DAEMON_HTTP_LISTENER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

struct HttpListener {
  storage::UniqueFd socket;  // non-blocking
  std::string address;
  bool local = false;  // a Unix socket
};

// INVALID_ARGUMENT unless `listen` is of the forms of HttpOptions::listen.
absl::Status CheckListen(absl::string_view listen);

// Forms and errors as HttpServer::Start. A Unix socket gets mode 0660.
absl::StatusOr<HttpListener> ListenHttp(absl::string_view listen);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HTTP_LISTENER_H_
