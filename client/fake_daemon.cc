#include "client/fake_daemon.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "client/futex.h"
#include "proto/rpc_status.pb.h"
#include "proto/sessions.grpc.pb.h"

namespace keepstep::client {
namespace {

// A wait that also notices cancelled streams.
constexpr auto kLook = std::chrono::milliseconds(5);

[[noreturn]] void Die(const char* what) {
  perror(what);
  abort();
}

UniqueFd MakeMemory(const char* name, size_t size_bytes) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ftruncate(fd.get(), size_bytes) != 0) Die(name);
  return fd;
}

std::byte* MapMemory(int fd, size_t size_bytes) {
  void* data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) Die("mmap");
  return static_cast<std::byte*>(data);
}

// recv, with the descriptors that come along.
ssize_t ReceiveFrame(int socket, std::vector<std::byte>* frame, std::vector<UniqueFd>* fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(proto::kMaxDescriptors * sizeof(int))] = {};
  iovec part{.iov_base = frame->data(), .iov_len = frame->size()};
  msghdr message{
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* const header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return got;
  for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    fds->emplace_back(fd);
  }
  return got;
}

grpc::Status ToGrpc(const FakeAnswer& answer) {
  if (answer.code == 0) return grpc::Status::OK;
  google::rpc::Status details;
  if (!answer.reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_domain("keepstep");
    info.set_reason(answer.reason);
    (*info.mutable_metadata())["rank"] = "3";
    details.add_details()->PackFrom(info);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(answer.code), "scripted", details.SerializeAsString());
}

}  // namespace

struct FakeDaemon::Shared {
  UniqueFd socket, page_fd, client_fd, window_fd;
  proto::Hello hello;
  proto::DaemonPage* page = nullptr;
  proto::ClientPage* client = nullptr;
  std::byte* window = nullptr;
  size_t window_bytes = 0;
  ~Shared() {
    if (page != nullptr) munmap(page, proto::kPageBytes);
    if (client != nullptr) munmap(client, proto::kPageBytes);
    if (window != nullptr) munmap(window, window_bytes);
  }
};

class FakeDaemon::Service final : public v1::Sessions::Service {
 public:
  explicit Service(FakeDaemon* daemon) : daemon_(daemon) {}

  grpc::Status Open(grpc::ServerContext* context, const v1::OpenRequest* request,
                    grpc::ServerWriter<v1::SessionEvent>* writer) override {
    const FakeScript& script = daemon_->script_;
    if (script.on_open) {
      const FakeAnswer answer = script.on_open(*request);
      if (answer.code != 0) return ToGrpc(answer);
    }
    v1::SessionEvent event;
    *event.mutable_opened() = script.opened;
    writer->Write(event);
    std::unique_lock lock(daemon_->mu_);
    while (!daemon_->stopping_ && !context->IsCancelled()) daemon_->arrived_.wait_for(lock, kLook);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopped");
  }
  grpc::Status Register(grpc::ServerContext*, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override {
    response->set_rescues(daemon_->script_.no_rescue.empty());
    response->set_no_rescue(daemon_->script_.no_rescue);
    return daemon_->script_.on_register ? ToGrpc(daemon_->script_.on_register(*request)) : grpc::Status::OK;
  }
  grpc::Status Save(grpc::ServerContext*, const v1::SaveRequest* request,
                    v1::SaveResponse* response) override {
    response->mutable_status()->set_number(request->number());
    response->mutable_status()->set_step(request->step());
    response->mutable_status()->set_state(v1::ACCEPTED);
    return daemon_->script_.on_save ? ToGrpc(daemon_->script_.on_save(*request, response)) : grpc::Status::OK;
  }
  grpc::Status Wait(grpc::ServerContext*, const v1::WaitRequest* request, v1::SaveStatus* status) override {
    if (!daemon_->script_.on_wait)
      return ToGrpc({.code = grpc::StatusCode::NOT_FOUND, .reason = "NO_SUCH_SAVE"});
    return ToGrpc(daemon_->script_.on_wait(*request, status));
  }
  grpc::Status Restart(grpc::ServerContext*, const v1::RestartRequest* request,
                       v1::RestartResponse* response) override {
    return daemon_->script_.on_restart ? ToGrpc(daemon_->script_.on_restart(*request, response)) : grpc::Status::OK;
  }
  grpc::Status Load(grpc::ServerContext*, const v1::LoadRequest* request,
                    grpc::ServerWriter<v1::LoadEvent>* writer) override {
    v1::LoadEvent progress, report;
    progress.mutable_progress()->set_bytes_done(1);
    writer->Write(progress);
    FakeAnswer answer;
    if (daemon_->script_.on_load) answer = daemon_->script_.on_load(*request, report.mutable_report());
    if (answer.code == 0) writer->Write(report);
    return ToGrpc(answer);
  }

 private:
  FakeDaemon* daemon_;
};

struct FakeDaemon::Server {
  explicit Server(FakeDaemon* daemon) : service(daemon) {}
  Service service;
  std::unique_ptr<grpc::Server> grpc;
};

FakeDaemon::FakeDaemon(FakeScript script) : script_(std::move(script)) {
  char name[] = "/tmp/ks-fake-XXXXXX";
  if (mkdtemp(name) == nullptr) Die("mkdtemp");
  directory_ = name;
  Start();
}

FakeDaemon::~FakeDaemon() {
  Stop();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void FakeDaemon::Start() {
  stopping_ = false;
  unlink(handoff_path().c_str());
  listener_ = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX};
  std::strncpy(address.sun_path, handoff_path().c_str(), sizeof(address.sun_path) - 1);
  if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Die("bind");
  if (listen(listener_.get(), 8) != 0) Die("listen");
  server_ = std::make_unique<Server>(this);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + directory_ + "/" + proto::kGrpcSocketName,
                           grpc::InsecureServerCredentials());
  builder.RegisterService(&server_->service);
  server_->grpc = builder.BuildAndStart();
  if (server_->grpc == nullptr) Die("grpc");
  acceptor_ = std::thread([this, fd = listener_.get()] { Accept(fd); });
}

void FakeDaemon::Stop() {
  if (server_ == nullptr) return;
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
    if (session_ != nullptr) shutdown(session_->socket.get(), SHUT_RDWR);
    arrived_.notify_all();
  }
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  server_->grpc->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  unlink(handoff_path().c_str());
  listener_ = UniqueFd();
}

// One connection after the other is served here: a client that resumes has closed its last.
void FakeDaemon::Accept(int listener) {
  while (true) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    if (Welcome(fd)) ReadFrames(fd);
  }
}

bool FakeDaemon::Welcome(int fd) {
  auto session = std::make_shared<Shared>();
  session->socket = UniqueFd(fd);
  if (recv(fd, &session->hello, sizeof(session->hello), 0) != sizeof(session->hello)) return false;
  if (script_.refuse.code != 0) {
    proto::Refused refused;
    refused.code = script_.refuse.code;
    std::strncpy(refused.reason, script_.refuse.reason.c_str(), sizeof(refused.reason) - 1);
    return send(fd, &refused, sizeof(refused), MSG_NOSIGNAL) < 0;
  }
  const bool by_window =
      script_.transfer == proto::Transfer::kWindow || session->hello.want == proto::Transfer::kWindow;
  session->page_fd = MakeMemory("daemon", proto::kPageBytes);
  session->client_fd = MakeMemory("client", proto::kPageBytes);
  session->page = new (MapMemory(session->page_fd.get(), proto::kPageBytes)) proto::DaemonPage;
  session->client = new (MapMemory(session->client_fd.get(), proto::kPageBytes)) proto::ClientPage;
  fcntl(session->page_fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
  fcntl(session->client_fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  int fds[3] = {session->page_fd.get(), session->client_fd.get(), -1};
  if (by_window) {
    session->window_bytes = script_.window_bytes;
    session->window_fd = MakeMemory("window", script_.window_bytes);
    session->window = MapMemory(session->window_fd.get(), script_.window_bytes);
    fcntl(session->window_fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    fds[2] = session->window_fd.get();
  }
  proto::Welcome welcome;
  welcome.transfer = by_window ? proto::Transfer::kWindow : proto::Transfer::kPull;
  welcome.maps_gpu_memory = script_.maps_gpu_memory;
  welcome.window_bytes = session->window_bytes;
  const size_t fd_bytes = (by_window ? 3 : 2) * sizeof(int);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  iovec part{.iov_base = &welcome, .iov_len = sizeof(welcome)};
  msghdr message{
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(fd_bytes)};
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fd_bytes);
  std::memcpy(CMSG_DATA(header), fds, fd_bytes);
  {
    std::lock_guard lock(mu_);
    session_ = session;
    ended_ = false;
    frames_.clear();
    descriptors_.clear();
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL) > 0;
}

void FakeDaemon::ReadFrames(int fd) {
  while (true) {
    std::vector<std::byte> frame(proto::kMaxFrameBytes);
    std::vector<UniqueFd> fds;
    const ssize_t got = ReceiveFrame(fd, &frame, &fds);
    std::lock_guard lock(mu_);
    if (got <= 0) {
      ended_ = true;
      arrived_.notify_all();
      return;
    }
    frame.resize(got);
    AnswerAsk(frame);
    Keep(frame, std::move(fds));
    frames_.push_back(std::move(frame));
    arrived_.notify_all();
  }
}

void FakeDaemon::Keep(const std::vector<std::byte>& frame, std::vector<UniqueFd> fds) {
  proto::Descriptors head;
  if (frame.size() != sizeof(head)) return;
  std::memcpy(&head, frame.data(), sizeof(head));
  if (head.header.kind != proto::FrameKind::kDescriptors) return;
  for (size_t i = 0; i < fds.size(); ++i) descriptors_[head.first + i] = std::move(fds[i]);
}

std::map<uint64_t, int> FakeDaemon::descriptors() {
  std::lock_guard lock(mu_);
  std::map<uint64_t, int> found;
  for (const auto& [number, fd] : descriptors_) found[number] = fd.get();
  return found;
}

// As scripted: a script that answers calls gets calls.
void FakeDaemon::AnswerAsk(const std::vector<std::byte>& frame) {
  proto::AskSave ask;
  if (frame.size() < sizeof(ask)) return;
  std::memcpy(&ask, frame.data(), sizeof(ask));
  v1::SaveRequest request;
  if (ask.header.kind != proto::FrameKind::kAskSave || script_.ignore_asks ||
      !request.ParseFromArray(frame.data() + sizeof(ask), static_cast<int>(frame.size() - sizeof(ask))))
    return;
  if (script_.on_ask) script_.on_ask(request);
  const auto state = script_.on_save ? v1::SAVE_STATE_UNSPECIFIED : v1::ACCEPTED;
  session_->page->states[request.number() % proto::kSaveSlots] =
      proto::PackSlot(request.number(), static_cast<uint8_t>(state));
  ++session_->page->changes;
  FutexWakeAll(session_->page->changes);
}

std::vector<std::byte> FakeDaemon::AwaitFrame(proto::FrameKind kind) {
  std::unique_lock lock(mu_);
  while (true) {
    arrived_.wait(lock, [&] { return !frames_.empty() || ended_; });
    if (frames_.empty()) return {};
    std::vector<std::byte> frame = std::move(frames_.front());
    frames_.pop_front();
    proto::FrameHeader header;
    std::memcpy(&header, frame.data(), sizeof(header));
    if (header.kind == kind) return frame;
  }
}

proto::DaemonPage& FakeDaemon::page() {
  std::lock_guard lock(mu_);
  return *session_->page;
}

proto::ClientPage& FakeDaemon::client_page() {
  std::lock_guard lock(mu_);
  return *session_->client;
}

std::byte* FakeDaemon::window() {
  std::lock_guard lock(mu_);
  return session_->window;
}

proto::Hello FakeDaemon::hello() {
  std::lock_guard lock(mu_);
  return session_->hello;
}

void FakeDaemon::Beat() { ++page().heartbeat_ns; }

void FakeDaemon::Release(uint32_t group, uint64_t number) {
  proto::DaemonPage& shared = page();
  shared.released[group] = number;
  ++shared.changes;
  FutexWakeAll(shared.changes);
}

void FakeDaemon::SetState(uint64_t number, v1::SaveState state) {
  proto::DaemonPage& shared = page();
  shared.states[number % proto::kSaveSlots] = proto::PackSlot(number, static_cast<uint8_t>(state));
  ++shared.changes;
  FutexWakeAll(shared.changes);
}

void FakeDaemon::SendCopy(const proto::Copy& head, const std::vector<proto::CopyEntry>& entries) {
  std::vector<std::byte> frame(sizeof(head) + entries.size() * sizeof(proto::CopyEntry));
  std::memcpy(frame.data(), &head, sizeof(head));
  std::memcpy(frame.data() + sizeof(head), entries.data(), entries.size() * sizeof(proto::CopyEntry));
  std::lock_guard lock(mu_);
  if (send(session_->socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL) < 0) Die("send");
}

}  // namespace keepstep::client
