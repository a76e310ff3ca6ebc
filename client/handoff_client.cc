#include "client/handoff_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

constexpr int kWelcomeDescriptors = 3;

bool HasKind(absl::Span<const std::byte> frame, proto::FrameKind kind, size_t size_bytes) {
  proto::FrameHeader header;
  if (frame.size() < size_bytes || frame.size() < sizeof(header)) return false;
  std::memcpy(&header, frame.data(), sizeof(header));
  return header.magic == proto::kHandoffMagic && header.version == proto::kHandoffVersion &&
         header.kind == kind;
}

absl::Status BadHandoff(absl::string_view what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "BAD_HANDOFF", what, "open");
}

absl::StatusOr<UniqueFd> ConnectSocket(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return MakeError(absl::StatusCode::kResourceExhausted, "NO_SOCKET",
                     absl::StrCat("socket: ", strerror(errno)), "open");
  }
  sockaddr_un address{.sun_family = AF_UNIX};
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  int failed = 0;
  do {  // a signal may end the wait for a place in the queue
    failed = connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  } while (failed != 0 && errno == EINTR);
  if (failed == 0) return fd;
  if (errno == EACCES || errno == EPERM) {
    return MakeError(absl::StatusCode::kPermissionDenied, "NO_ACCESS",
                     absl::StrCat("may not connect to ", path, ": join the socket's group"), "open");
  }
  return MakeError(absl::StatusCode::kUnavailable, "NO_DAEMON",
                   absl::StrCat("no daemon listens at ", path, " (", strerror(errno), "): start keepstepd"),
                   "open");
}

// Of this process, without changing it as umask(2) would, which other threads could see; -1: not told.
int OwnUmask() {
  UniqueFd status(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  char text[4096] = {};
  if (!status.valid() || read(status.get(), text, sizeof(text) - 1) <= 0) return -1;
  const char* line = std::strstr(text, "\nUmask:");
  return line == nullptr ? -1
                         : static_cast<int>(std::strtol(line + sizeof("\nUmask:") - 1, nullptr, 8) & 0777);
}

std::vector<UniqueFd> TakeDescriptors(msghdr* message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

// Empty at the end of the connection.
std::vector<std::byte> Receive(int socket, std::vector<UniqueFd>* fds) {
  std::vector<std::byte> frame(proto::kMaxFrameBytes);
  alignas(cmsghdr) char control[CMSG_SPACE(kWelcomeDescriptors * sizeof(int))] = {};
  iovec part{.iov_base = frame.data(), .iov_len = frame.size()};
  msghdr message{
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  ssize_t got = 0;
  int resets = 0;  // one is told before what the other side sent and closed without reading
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
  auto taken = TakeDescriptors(&message);
  if (fds != nullptr) *fds = std::move(taken);
  frame.resize(got > 0 ? got : 0);
  return frame;
}

// The daemon's first frame, unless it refuses.
absl::StatusOr<std::vector<std::byte>> ReceiveAnswer(int socket, Deadline deadline, std::vector<UniqueFd>* fds) {
  constexpr int64_t kMostMs = 600'000;
  pollfd wait{.fd = socket, .events = POLLIN};
  int ready = 0;
  do {
    ready = poll(&wait, 1, static_cast<int>(RemainingMs(deadline, kMostMs)));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0)
    return MakeError(absl::StatusCode::kUnavailable, "", "the daemon does not answer the handshake", "open");
  std::vector<std::byte> frame = Receive(socket, fds);
  if (frame.empty())
    return MakeError(absl::StatusCode::kUnavailable, "", "the daemon hung up at the handshake", "open");
  if (!HasKind(frame, proto::FrameKind::kRefused, sizeof(proto::Refused))) return frame;
  proto::Refused refused;
  std::memcpy(&refused, frame.data(), sizeof(refused));
  refused.reason[sizeof(refused.reason) - 1] = refused.message[sizeof(refused.message) - 1] = '\0';
  const bool valid = refused.code >= 1 && refused.code <= 16;
  const auto code = valid ? static_cast<absl::StatusCode>(refused.code) : absl::StatusCode::kUnknown;
  return MakeError(code, refused.reason, refused.message, "open");
}

// A pidfd becomes readable at its process's end; a socket is also readable when a frame waits.
short EndEvents(const UniqueFd& pidfd) { return pidfd.valid() ? POLLIN : POLLRDHUP; }

}  // namespace

absl::StatusOr<UniqueFd> FetchMemory(const std::string& socket_path, const std::string& token_hex,
                                     const std::string& gpu, uint64_t ordinal, Deadline deadline) {
  proto::Fetch fetch;
  fetch.ordinal = ordinal;
  const std::string token = absl::HexStringToBytes(token_hex);
  if (token.size() != sizeof(fetch.token) || gpu.size() != sizeof(fetch.gpu))
    return BadHandoff("a token or UUID that is none");
  std::memcpy(fetch.token, token.data(), sizeof(fetch.token));
  std::memcpy(fetch.gpu, gpu.data(), sizeof(fetch.gpu));
  auto socket = ConnectSocket(socket_path);
  if (!socket.ok()) return socket.status();
  // A failure to send is told by what is, or is not, there to be read.
  (void)send(socket->get(), &fetch, sizeof(fetch), MSG_NOSIGNAL);
  std::vector<UniqueFd> fds;
  const auto answer = ReceiveAnswer(socket->get(), deadline, &fds);
  if (!answer.ok()) return answer.status();
  if (!HasKind(*answer, proto::FrameKind::kFetched, sizeof(proto::Fetched)) || fds.size() != 1)
    return BadHandoff("the daemon hands over no memory");
  return std::move(fds[0]);
}

absl::StatusOr<std::shared_ptr<HandoffClient>> HandoffClient::Connect(const HandoffSpec& spec,
                                                                      Deadline deadline) {
  auto connected = ConnectSocket(spec.socket_path);
  if (!connected.ok()) return connected.status();
  std::shared_ptr<HandoffClient> client(new HandoffClient());
  client->socket_ = *std::move(connected);
  client->IdentifyDaemon();
  if (absl::Status status = client->SendHello(spec); !status.ok()) return status;
  if (absl::Status status = client->ReadWelcome(deadline); !status.ok()) return status;
  return client;
}

void HandoffClient::IdentifyDaemon() {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) return;
  daemon_pid_ = peer.pid;
  pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
  // Where Yama restricts ptrace, this lets the daemon, and no other process, read the registered buffers.
  prctl(PR_SET_PTRACER, static_cast<unsigned long>(peer.pid), 0, 0, 0);
}

absl::Status HandoffClient::SendHello(const HandoffSpec& spec) {
  proto::Hello hello;
  hello.nonce_address = reinterpret_cast<uint64_t>(spec.nonce);
  std::memcpy(hello.nonce, spec.nonce, sizeof(hello.nonce));
  hello.want = spec.want;
  hello.has_directory = spec.directory_fd >= 0;
  hello.has_flight_record = spec.flight_record_fd >= 0;
  if (const int umask = OwnUmask(); umask >= 0) {
    hello.has_umask = 1;
    hello.umask = static_cast<uint16_t>(umask);
  }
  std::strncpy(hello.directory, spec.directory.c_str(), sizeof(hello.directory) - 1);
  int fds[2];
  size_t count = 0;
  if (hello.has_directory) fds[count++] = spec.directory_fd;
  if (hello.has_flight_record) fds[count++] = spec.flight_record_fd;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  iovec part{.iov_base = &hello, .iov_len = sizeof(hello)};
  msghdr message{.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(hello)))
    return absl::OkStatus();
  if (errno == EPIPE || errno == ECONNRESET) return absl::OkStatus();  // closed: why lies there to be read
  return MakeError(absl::StatusCode::kUnavailable, "",
                   absl::StrCat("handing over to the daemon: ", strerror(errno)), "open");
}

absl::Status HandoffClient::ReadWelcome(Deadline deadline) {
  std::vector<UniqueFd> fds;
  const auto answer = ReceiveAnswer(socket_.get(), deadline, &fds);
  if (!answer.ok()) return answer.status();
  const std::vector<std::byte>& frame = *answer;
  if (!HasKind(frame, proto::FrameKind::kWelcome, sizeof(proto::Welcome))) {
    return BadHandoff(
        "the daemon's handshake is of another version: install the client and the daemon together");
  }
  proto::Welcome welcome;
  std::memcpy(&welcome, frame.data(), sizeof(welcome));
  return Adopt(welcome, std::move(fds));
}

absl::Status HandoffClient::Adopt(const proto::Welcome& welcome, std::vector<UniqueFd> fds) {
  const bool by_window = welcome.transfer == proto::Transfer::kWindow;
  if (fds.size() < (by_window ? 3u : 2u)) return BadHandoff("the daemon handed over too few descriptors");
  auto daemon_page = Mapping::Map(fds[0].get(), proto::kPageBytes, false);
  if (!daemon_page.ok()) return daemon_page.status();
  auto client_page = Mapping::Map(fds[1].get(), proto::kPageBytes, true);
  if (!client_page.ok()) return client_page.status();
  daemon_page_ = *std::move(daemon_page);
  client_page_ = *std::move(client_page);
  if (daemon().magic != proto::kPageMagic || daemon().version != proto::kPageVersion) {
    return BadHandoff("the daemon's page is of another version: install the client and the daemon together");
  }
  if (by_window) {
    auto window = Mapping::Map(fds[2].get(), static_cast<int64_t>(welcome.window_bytes), true);
    if (!window.ok()) return window.status();
    window_ = *std::move(window);
  }
  transfer_ = by_window ? proto::Transfer::kWindow : proto::Transfer::kPull;
  maps_gpu_memory_ = welcome.maps_gpu_memory != 0;
  token_hex_ = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(welcome.token), sizeof(welcome.token)));
  return absl::OkStatus();
}

const proto::DaemonPage& HandoffClient::daemon() const {
  return *reinterpret_cast<const proto::DaemonPage*>(daemon_page_.data());
}

proto::ClientPage& HandoffClient::client() const {
  return *reinterpret_cast<proto::ClientPage*>(client_page_.data());
}

void HandoffClient::Notify() {
  const proto::Notify notify;
  (void)send(socket_.get(), &notify, sizeof(notify), MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool HandoffClient::AskSave(const std::string& request) {
  if (request.size() > proto::kMaxAskBytes) return false;
  proto::AskSave head;
  iovec parts[2] = {{.iov_base = &head, .iov_len = sizeof(head)},
                    {.iov_base = const_cast<char*>(request.data()), .iov_len = request.size()}};
  const msghdr message{.msg_iov = parts, .msg_iovlen = 2};
  return sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

int HandoffClient::LifeFd() const { return pidfd_.valid() ? pidfd_.get() : socket_.get(); }

bool HandoffClient::DaemonGone() const {
  pollfd life{.fd = LifeFd(), .events = EndEvents(pidfd_)};
  return poll(&life, 1, 0) > 0;
}

void HandoffClient::AwaitGone(int wake_fd, int64_t timeout_ms) const {
  pollfd watched[2] = {{.fd = LifeFd(), .events = EndEvents(pidfd_)}, {.fd = wake_fd, .events = POLLIN}};
  poll(watched, 2, static_cast<int>(timeout_ms));
}

absl::StatusOr<CopyRequest> ParseCopy(absl::Span<const std::byte> frame) {
  CopyRequest request;
  if (!HasKind(frame, proto::FrameKind::kCopy, sizeof(proto::Copy)))
    return absl::InvalidArgumentError("not a copy");
  std::memcpy(&request.head, frame.data(), sizeof(request.head));
  const size_t entry_bytes = frame.size() - sizeof(proto::Copy);
  if (request.head.count > proto::kMaxCopyEntries ||
      entry_bytes != request.head.count * sizeof(proto::CopyEntry)) {
    return absl::InvalidArgumentError("a copy whose size is not that of its entries");
  }
  request.entries.resize(request.head.count);
  if (entry_bytes > 0) std::memcpy(request.entries.data(), frame.data() + sizeof(proto::Copy), entry_bytes);
  return request;
}

absl::StatusOr<CopyRequest> HandoffClient::ReadCopy() {
  const std::vector<std::byte> frame = Receive(socket_.get(), nullptr);
  if (frame.empty()) return absl::UnavailableError("the handoff connection has ended");
  return ParseCopy(frame);
}

void HandoffClient::SendCopyDone(uint64_t id, int error) {
  proto::CopyDone done;
  done.id = id;
  done.error = error;
  (void)send(socket_.get(), &done, sizeof(done), MSG_NOSIGNAL);
}

absl::Status HandoffClient::SendDescriptors(uint64_t first, const std::vector<UniqueFd>& fds,
                                            Deadline deadline) {
  constexpr int64_t kPauseMs = 1;
  proto::Descriptors head;
  head.first = first;
  const size_t fd_bytes = fds.size() * sizeof(int);
  alignas(cmsghdr) char control[CMSG_SPACE(proto::kMaxDescriptors * sizeof(int))] = {};
  iovec part{.iov_base = &head, .iov_len = sizeof(head)};
  msghdr message{
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(fd_bytes)};
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fd_bytes);
  for (size_t i = 0; i < fds.size(); ++i) {
    const int fd = fds[i].get();
    std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
  }
  while (sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    // The socket is full, or this user has too many descriptors on their way: until the daemon has taken
    // some.
    if (errno != EAGAIN && errno != ETOOMANYREFS)
      return absl::UnavailableError(absl::StrCat("handing descriptors to the daemon: ", strerror(errno)));
    if (Expired(deadline))
      return absl::DeadlineExceededError("the daemon takes no descriptors of GPU memory");
    AwaitGone(socket_.get(), RemainingMs(deadline, kPauseMs));
    if (DaemonGone()) return absl::UnavailableError("the daemon ended while descriptors were handed to it");
  }
  return absl::OkStatus();
}

void HandoffClient::SendGoodbye() {
  const proto::Goodbye goodbye;
  (void)send(socket_.get(), &goodbye, sizeof(goodbye), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void HandoffClient::Shutdown() { shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace keepstep::client
