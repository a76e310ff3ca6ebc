#include "daemon/handoff_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "daemon/connection_limit.h"
#include "daemon/error.h"
#include "daemon/handoff_frames.h"

namespace keepstep::daemon {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kHelloLimit(10);
constexpr int kPollMs = 1000;
constexpr int kFramesAtOnce = 64;
constexpr int kNoDescriptorPauseUs = 10'000;

// What an epoll event is about: a connection's id and which of its two descriptors.
constexpr uint64_t kListenerTag = 0, kWakeTag = 1;
constexpr uint64_t SocketTag(uint64_t id) { return id << 1; }
constexpr uint64_t PidTag(uint64_t id) { return id << 1 | 1; }

absl::Status Errno(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
}

absl::Status Invalid(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_FRAME", message, "handoff");
}

void Refuse(FrameSocket& socket, const absl::Status& status) {
  proto::Refused refused;
  refused.header.kind = proto::FrameKind::kRefused;
  refused.code = static_cast<int32_t>(status.code());
  ReasonOf(status).copy(refused.reason, sizeof(refused.reason) - 1);
  std::string(status.message()).copy(refused.message, sizeof(refused.message) - 1);
  socket.Send(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&refused), sizeof(refused)))
      .IgnoreError();
}

absl::StatusOr<std::string> NewToken() {
  char token[proto::kTokenBytes];
  if (getrandom(token, sizeof(token), 0) != sizeof(token)) return Errno("getrandom");
  return absl::BytesToHexString(absl::string_view(token, sizeof(token)));
}

absl::Status CheckDirectory(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return Errno("The job's directory does not answer");  // it may, when asked again
  if (!S_ISDIR(info.st_mode)) return Invalid("The descriptor is not a directory.");
  if (fcntl(fd, F_GETFL) & O_PATH)
    return Invalid("The directory's descriptor must be open for reading, not O_PATH.");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HandoffServer>> HandoffServer::Start(const HandoffSpec& spec,
                                                                    HandoffEvents* events) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (spec.socket_path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(spec.socket_path, " is too long for a socket."));
  }
  spec.socket_path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  storage::UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  storage::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  storage::UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!listener.valid() || !epoll.valid() || !wake.valid()) return Errno("handoff socket");
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return Errno(spec.socket_path);
  if (chmod(spec.socket_path.c_str(), 0660) != 0) return Errno(spec.socket_path);
  if (listen(listener.get(), 1024) != 0) return Errno(spec.socket_path);
  std::unique_ptr<HandoffServer> server(
      new HandoffServer(spec, events, std::move(listener), std::move(epoll), std::move(wake)));
  absl::Status status = server->Watch(server->listener_.get(), kListenerTag);
  if (status.ok()) status = server->Watch(server->wake_.get(), kWakeTag);
  if (!status.ok()) return status;
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

HandoffServer::HandoffServer(const HandoffSpec& spec, HandoffEvents* events, storage::UniqueFd listener,
                             storage::UniqueFd epoll, storage::UniqueFd wake)
    : spec_(spec),
      events_(events),
      listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      max_connections_(spec.max_connections),
      window_bytes_(spec.window_bytes) {}

HandoffServer::~HandoffServer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
  unlink(spec_.socket_path.c_str());
}

void HandoffServer::Forget(SessionId session) {
  {
    std::lock_guard lock(mutex_);
    forget_.push_back(session);
  }
  eventfd_write(wake_.get(), 1);
}

void HandoffServer::SetLimits(int max_connections, int64_t window_bytes) {
  max_connections_ = max_connections;
  window_bytes_ = window_bytes;
}

absl::Status HandoffServer::Watch(int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0 ? absl::OkStatus() : Errno("epoll_ctl");
}

void HandoffServer::Run() {
  epoll_event events[64];
  for (;;) {
    const int count = epoll_wait(epoll_.get(), events, 64, kPollMs);
    for (int i = 0; i < count; ++i) {
      const uint64_t tag = events[i].data.u64;
      if (tag == kListenerTag) {
        Accept();
      } else if (tag == kWakeTag) {
        eventfd_t value;
        eventfd_read(wake_.get(), &value);
      } else if (tag & 1) {
        OnProcessEnded(tag >> 1, /*left=*/false);
      } else {
        OnReadable(tag >> 1);
      }
    }
    ForgetRequested();
    DropSilent();
    std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
}

void HandoffServer::Accept() {
  for (;;) {
    storage::UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) {  // no descriptor or no memory: what waits is asked for again
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) usleep(kNoDescriptorPauseUs);
      return;
    }
    auto socket = std::make_shared<FrameSocket>(std::move(fd));
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (getsockopt(socket->fd(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) continue;
    const auto of_user = std::count_if(connections_.begin(), connections_.end(),
                                       [&](const auto& one) { return one.second.user == peer.uid; });
    const int limit = max_connections_;
    if (TooManyOf(peer.uid, static_cast<int>(of_user), static_cast<int>(connections_.size()), limit)) {
      Refuse(*socket, MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_SESSIONS",
                                absl::StrCat("The daemon serves ", limit, " sessions already."), "handoff"));
      continue;
    }
    const uint64_t id = ++next_id_;  // from 2: the tags of 0 and 1 are taken
    if (!Watch(socket->fd(), SocketTag(id)).ok()) continue;
    connections_[id] = {.socket = std::move(socket),
                        .session = nullptr,
                        .user = peer.uid,
                        .hello_by = Clock::now() + kHelloLimit};
  }
}

void HandoffServer::DropSilent() {
  const auto now = Clock::now();
  for (auto it = connections_.begin(); it != connections_.end();) {
    auto current = it++;
    if (current->second.session == nullptr && current->second.hello_by < now) Remove(current->first);
  }
}

void HandoffServer::ForgetRequested() {
  std::vector<SessionId> forget;
  {
    std::lock_guard lock(mutex_);
    forget.swap(forget_);
  }
  for (SessionId id : forget) Remove(id);
}

void HandoffServer::OnReadable(uint64_t id) {
  for (int taken = 0; taken < kFramesAtOnce; ++taken) {  // then the others' turn
    auto found = connections_.find(id);
    if (found == connections_.end() || found->second.socket == nullptr) return;
    auto frame = found->second.socket->Receive();
    if (!frame.ok()) {
      if (!absl::IsUnavailable(frame.status())) Close(id);
      return;
    }
    if (!OnFrame(found->second, id, *std::move(frame))) {
      Close(id);
      return;
    }
  }
}

bool HandoffServer::OnFrame(Connection& connection, uint64_t id, ReceivedFrame frame) {
  if (connection.session == nullptr && IsFetch(frame.bytes)) {
    const absl::Status status = OnFetch(connection, frame);
    if (!status.ok()) Refuse(*connection.socket, status);
    return false;
  }
  if (connection.session == nullptr) {
    const absl::Status status = OnHello(connection, id, std::move(frame));
    if (!status.ok()) Refuse(*connection.socket, status);
    return status.ok();
  }
  const std::optional<ClientFrame> said = ParseClientFrame(frame.bytes, frame.descriptors.size());
  if (!said.has_value()) return false;
  if (std::holds_alternative<proto::Goodbye>(*said)) {
    OnProcessEnded(id, /*left=*/true);  // as if: the client will not resume, so there is nothing to wait for
  } else if (std::holds_alternative<proto::Notify>(*said)) {
    events_->OnNotify(*connection.session);
  } else if (const auto* ask = std::get_if<AskedSave>(&*said)) {
    events_->OnAskSave(
        connection.session,
        absl::string_view(reinterpret_cast<const char*>(ask->request.data()), ask->request.size()));
  } else if (const auto* described = std::get_if<proto::Descriptors>(&*said)) {
    return connection.session->OnDescriptors(described->first, std::move(frame.descriptors)).ok();
  } else {
    const auto& done = std::get<proto::CopyDone>(*said);
    connection.session->OnCopyDone(done.id, done.error);
  }
  return true;
}

absl::Status HandoffServer::OnFetch(Connection& connection, const ReceivedFrame& frame) {
  auto fetch = ParseFetch(frame.bytes, frame.descriptors.size());
  if (!fetch.ok()) return fetch.status();
  const std::string token = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(fetch->token), sizeof(fetch->token)));
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection.socket->fd(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return Errno("SO_PEERCRED");
  const auto named = std::find_if(connections_.begin(), connections_.end(), [&](const auto& each) {
    const auto& session = each.second.session;
    return session != nullptr && session->token() == token && session->peer().pid == peer.pid;
  });
  if (named == connections_.end()) {
    return MakeError(absl::StatusCode::kUnauthenticated, "NO_SESSION",
                     "The token names no session of this process. Open one first.", "handoff");
  }
  PieceName name{.ordinal = fetch->ordinal};
  static_assert(sizeof(name.gpu) == sizeof(fetch->gpu));
  std::copy(std::begin(fetch->gpu), std::end(fetch->gpu), name.gpu.begin());
  auto lent = named->second.session->pieces().Find(name);
  if (!lent.ok()) return lent.status();
  proto::Fetched fetched;
  fetched.size_bytes = static_cast<uint64_t>(lent->piece->size_bytes());
  const int descriptor = lent->piece->descriptor().get();
  return connection.socket->Send(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&fetched), sizeof(fetched)),
                                 {descriptor});
}

absl::Status HandoffServer::OnHello(Connection& connection, uint64_t id, ReceivedFrame frame) {
  auto hello = ParseHello(frame.bytes, frame.descriptors.size());
  if (!hello.ok()) return hello.status();
  if (absl::Status status = events_->Admit(); !status.ok()) return status;
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(connection.socket->fd(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    return Errno("SO_PEERCRED");
  if (credentials.pid == 0) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "UNSEEN_PROCESS",
                     "This client runs in a process namespace that the daemon does not see, so that it cannot know when "
                     "the client dies: start the daemon in the host's, or share one.",
                     "open");
  }
  ClientSession::Parts parts;
  parts.id = id;
  parts.peer = {credentials.pid, credentials.uid, credentials.gid};
  parts.pidfd = storage::UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, credentials.pid, 0)));
  if (!parts.pidfd.valid()) return Errno("pidfd_open of the client");
  size_t next = 0;
  if (hello->has_directory != 0) {
    parts.directory_fd = std::move(frame.descriptors[next++]);
    if (absl::Status status = CheckDirectory(parts.directory_fd.get()); !status.ok()) return status;
  }
  if (hello->has_flight_record != 0) {
    parts.flight_record = std::move(frame.descriptors[next]);
    if (absl::Status status = proto::CheckFlightRecord(parts.flight_record.get()); !status.ok())
      return Invalid(status.message());
  }
  parts.hello = *hello;
  parts.directory = hello->directory;
  return Welcome(connection, id, std::move(parts));
}

absl::Status HandoffServer::Welcome(Connection& connection, uint64_t id, ClientSession::Parts parts) {
  auto token = NewToken();
  if (!token.ok()) return token.status();
  auto pages = SessionPages::Make();
  if (!pages.ok()) return pages.status();
  parts.token = *token;
  parts.pages = *std::move(pages);
  parts.socket = connection.socket;
  parts.window_bytes = window_bytes_;
  parts.registrations = spec_.registrations;
  parts.devices = spec_.devices;
  if (spec_.pieces != nullptr) {
    PiecesByProcess::Nonce nonce;
    std::copy(std::begin(parts.hello.nonce), std::end(parts.hello.nonce), nonce.begin());
    parts.pieces = spec_.pieces->Of(parts.peer.pid, nonce);
  }
  auto session = ClientSession::Make(std::move(parts));
  if (!session.ok()) return session.status();
  if (absl::Status status = Watch((*session)->pidfd(), PidTag(id)); !status.ok()) return status;
  connection.session = *session;
  events_->OnSession(*session);

  proto::Welcome welcome;
  welcome.header.kind = proto::FrameKind::kWelcome;
  absl::HexStringToBytes(*token).copy(reinterpret_cast<char*>(welcome.token), proto::kTokenBytes);
  welcome.transfer = (*session)->transfer();
  welcome.maps_gpu_memory = (*session)->maps_gpu_memory() ? 1 : 0;
  welcome.window_bytes = static_cast<uint64_t>((*session)->window_bytes());
  std::vector<int> descriptors = {(*session)->pages().daemon_page_fd(), (*session)->pages().client_page_fd()};
  if ((*session)->window_fd() >= 0) descriptors.push_back((*session)->window_fd());
  return connection.socket->Send(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&welcome), sizeof(welcome)), descriptors);
}

void HandoffServer::Close(uint64_t id) {
  Connection& connection = connections_[id];
  if (connection.session == nullptr) {
    Remove(id);
    return;
  }
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.socket->fd(), nullptr);
  connection.socket->Shutdown();
  connection.socket = nullptr;
  connection.session->OnDisconnected();
  events_->OnLost(*connection.session);
}

void HandoffServer::OnProcessEnded(uint64_t id, bool left) {
  auto found = connections_.find(id);
  if (found == connections_.end() || found->second.session == nullptr) return;
  std::shared_ptr<ClientSession> session = found->second.session;
  session->OnDisconnected();
  Remove(id);
  events_->OnDead(*session, left);
}

void HandoffServer::Remove(uint64_t id) {
  auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  if (connection.session != nullptr)
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.session->pidfd(), nullptr);
  if (connection.socket != nullptr) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.socket->fd(), nullptr);
    connection.socket->Shutdown();
  }
  connections_.erase(found);
}

}  // namespace keepstep::daemon
