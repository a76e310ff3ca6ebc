#include "daemon/http_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "daemon/executor.h"
#include "daemon/http_listener.h"
#include "daemon/http_message.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWorkers = 2;
constexpr size_t kMaxWaiting = 16;  // requests for the workers

struct Connection {
  enum class State { kReading, kHandling, kWriting };

  uint64_t id = 0;
  storage::UniqueFd socket;
  State state = State::kReading;
  Clock::time_point deadline;
  bool head_only = false;
  std::string text;  // read so far, or still to be written
  size_t written = 0;
};

std::optional<uid_t> PeerOf(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
  return peer.uid;
}

}  // namespace

class HttpServer::Loop {
 public:
  Loop(const HttpOptions& options, HttpListener listener, std::vector<HttpRoute> routes, int wake)
      : options_(options),
        listener_(std::move(listener)),
        routes_(std::move(routes)),
        wake_(wake),
        workers_(std::make_unique<Executor>(kWorkers, kMaxWaiting)),
        thread_([this] { Run(); }) {}

  ~Loop() {
    stopping_ = true;
    Wake();
    thread_.join();
    workers_ = nullptr;  // runs what waits; the answers go nowhere
  }

  const std::string& address() const { return listener_.address; }

 private:
  using Connections = std::list<Connection>;

  void Run();
  void Wake();
  void Accept();
  bool Read(Connection& connection);
  bool Write(Connection& connection);
  bool Expired(const Connection& connection) const { return Clock::now() >= connection.deadline; }
  static void Reset(const Connection& connection);
  void Handle(Connection& connection);
  void Answer(Connection& connection, const HttpResponse& response);
  void TakeAnswers();

  const HttpOptions options_;
  const HttpListener listener_;
  const std::vector<HttpRoute> routes_;
  const storage::UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  uint64_t next_id_ = 1;
  Connections connections_;  // oldest first; touched by the thread alone
  std::mutex mutex_;
  std::vector<std::pair<uint64_t, HttpResponse>> answers_;  // of the workers
  std::unique_ptr<Executor> workers_;
  std::thread thread_;  // last: it uses all above
};

void HttpServer::Loop::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

void HttpServer::Loop::Run() {
  std::vector<pollfd> polled;
  while (!stopping_) {
    polled = {{listener_.socket.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    Clock::time_point next = Clock::now() + std::chrono::seconds(1);
    for (const Connection& connection : connections_) {
      const short events = connection.state == Connection::State::kReading   ? POLLIN
                           : connection.state == Connection::State::kWriting ? POLLOUT
                                                                             : 0;
      polled.push_back({connection.socket.get(), events, 0});
      next = std::min(next, connection.deadline);
    }
    const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
    if (poll(polled.data(), polled.size(), static_cast<int>(std::clamp<int64_t>(wait + 1, 0, 1000))) < 0 &&
        errno != EINTR)
      return;
    if (polled[1].revents != 0) TakeAnswers();
    size_t index = 2;
    for (auto it = connections_.begin(); it != connections_.end(); ++index) {
      Connection& connection = *it;
      bool keep = !Expired(connection);
      if (!keep) Reset(connection);
      const bool ready = polled[index].revents != 0;
      if (keep && ready && connection.state == Connection::State::kReading) keep = Read(connection);
      if (keep && ready && connection.state == Connection::State::kWriting) keep = Write(connection);
      it = keep ? std::next(it) : connections_.erase(it);
    }
    if (polled[0].revents != 0) Accept();
  }
}

void HttpServer::Loop::Accept() {
  storage::UniqueFd socket(accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) return;
  if (connections_.size() >= static_cast<size_t>(options_.max_connections)) {
    const auto slowest = std::find_if(connections_.begin(), connections_.end(), [](const Connection& one) {
      return one.state == Connection::State::kReading;
    });
    if (slowest == connections_.end()) return;
    connections_.erase(slowest);
  }
  connections_.push_back(
      {.id = next_id_++, .socket = std::move(socket), .deadline = Clock::now() + options_.request_limit});
}

// What is not taken must not linger in the kernel either.
void HttpServer::Loop::Reset(const Connection& connection) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(connection.socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

bool HttpServer::Loop::Read(Connection& connection) {
  char bytes[4096];
  const ssize_t got = recv(connection.socket.get(), bytes, sizeof(bytes), 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection.text.append(bytes, static_cast<size_t>(got));
  if (absl::StrContains(connection.text, "\r\n\r\n")) {
    Handle(connection);
  } else if (connection.text.size() > kMaxHeadBytes) {
    Answer(connection, Plain(431));
  }
  return true;
}

void HttpServer::Loop::Handle(Connection& connection) {
  if (connection.text.find("\r\n\r\n") > kMaxHeadBytes) return Answer(connection, Plain(431));
  HttpHead head = ParseHead(connection.text);
  connection.head_only = head.head_only;
  if (head.refused != 0) return Answer(connection, Plain(head.refused));
  if (!listener_.local && !NamesLoopback(head.host)) return Answer(connection, Plain(421));
  if (listener_.local) head.request.peer_uid = PeerOf(connection.socket.get());
  const auto route = std::find_if(routes_.begin(), routes_.end(),
                                  [&](const HttpRoute& one) { return one.path == head.request.path; });
  if (route == routes_.end()) return Answer(connection, Plain(404));
  if (!route->blocks) return Answer(connection, route->handle(head.request));
  connection.state = Connection::State::kHandling;
  connection.deadline = Clock::now() + options_.answer_limit;
  const bool taken =
      workers_->TrySubmit([this, id = connection.id, &handle = route->handle, request = head.request] {
        HttpResponse response = handle(request);
        {
          std::lock_guard lock(mutex_);
          answers_.emplace_back(id, std::move(response));
        }
        Wake();
      });
  if (!taken) Answer(connection, Plain(503));
}

void HttpServer::Loop::TakeAnswers() {
  uint64_t count = 0;
  (void)!read(wake_.get(), &count, sizeof(count));
  std::vector<std::pair<uint64_t, HttpResponse>> answers;
  {
    std::lock_guard lock(mutex_);
    answers.swap(answers_);
  }
  for (const auto& [id, response] : answers) {
    for (Connection& connection : connections_) {
      if (connection.id == id) Answer(connection, response);
    }
  }
}

void HttpServer::Loop::Answer(Connection& connection, const HttpResponse& response) {
  connection.text = Serialize(response, connection.head_only);
  connection.written = 0;
  connection.state = Connection::State::kWriting;
  connection.deadline = Clock::now() + options_.answer_limit;
}

bool HttpServer::Loop::Write(Connection& connection) {
  const ssize_t wrote = send(connection.socket.get(), connection.text.data() + connection.written,
                             connection.text.size() - connection.written, MSG_NOSIGNAL);
  if (wrote < 0) return errno == EAGAIN || errno == EINTR;
  connection.written += static_cast<size_t>(wrote);
  if (connection.written < connection.text.size()) return true;
  shutdown(connection.socket.get(), SHUT_WR);
  return false;
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpOptions& options,
                                                              std::vector<HttpRoute> routes) {
  absl::StatusOr<HttpListener> listener = ListenHttp(options.listen);
  if (!listener.ok()) return listener.status();
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return absl::ResourceExhaustedError("no descriptor left for HTTP");
  auto loop = std::make_unique<Loop>(options, *std::move(listener), std::move(routes), wake);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(loop)));
}

HttpServer::HttpServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
HttpServer::~HttpServer() = default;

const std::string& HttpServer::address() const { return loop_->address(); }

}  // namespace keepstep::daemon
