// A small HTTP/1.1 server for looking: GET and HEAD of a few fixed paths, one request a connection.
//
// One thread polls all connections; handlers that may block run on two workers, so that health can be asked
// while a page is being made. A library would bring more than it saves here: what matters is what a hostile
// client can cost.
//   - A request is at most kMaxHeadBytes without a body, and complete within `request_limit`; slower ones are
//   closed.
//   - At most `max_connections`; one more closes the connection that has been reading longest, so that slow
//     connections cannot keep others out.
//   - An answer that is not taken within `answer_limit` is dropped.
//   - On TCP only loopback, and only with a Host that names it: no web page reaches it by a name of its own.

#ifndef KEEPSTEP_DAEMON_HTTP_SERVER_H_
#define KEEPSTEP_DAEMON_HTTP_SERVER_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/http_message.h"

namespace keepstep::daemon {

struct HttpRoute {
  std::string path;
  bool blocks = false;  // runs on a worker
  std::function<HttpResponse(const HttpRequest&)> handle;
};

struct HttpOptions {
  std::string listen;  // "127.0.0.1:7070", "[::1]:0" (0: any free port), "unix:/path"
  int max_connections = 64;
  std::chrono::milliseconds request_limit{5'000};
  std::chrono::milliseconds answer_limit{10'000};
};

class HttpServer {
 public:
  static constexpr size_t kMaxHeadBytes = 8192;

  // Handlers are called from several threads until the destructor returns. INVALID_ARGUMENT: `listen`;
  // FAILED_PRECONDITION: it cannot be bound. What is at the path of a Unix socket is replaced.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpOptions& options,
                                                           std::vector<HttpRoute> routes);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  const std::string& address() const;  // "http://127.0.0.1:7070" with the real port, or "unix:/path"

 private:
  class Loop;
  explicit HttpServer(std::unique_ptr<Loop> loop);

  std::unique_ptr<Loop> loop_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HTTP_SERVER_H_
