#include "daemon/test_client.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "daemon/frame_socket.h"

namespace keepstep::daemon {
namespace {

template <typename Frame>
absl::Span<const std::byte> BytesOf(const Frame& frame) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&frame), sizeof(frame));
}

// Blocks until a frame is there, then takes it with its descriptors. Signals (a fuzzer's timer) and the reset
// that is told before the last frame of a closed connection are waited out.
absl::StatusOr<ReceivedFrame> Await(FrameSocket& socket) {
  char byte;
  ssize_t got = 0;
  int resets = 0;
  do {
    got = recv(socket.fd(), &byte, 1, MSG_PEEK);
  } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
  if (got <= 0) return absl::UnavailableError("closed");
  return socket.Receive();
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

storage::UniqueFd ConnectTo(const std::string& path) {
  storage::UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  int failed = 0;
  do {
    failed = connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  } while (failed != 0 && errno == EINTR);
  return failed == 0 ? std::move(fd) : storage::UniqueFd();
}

absl::StatusOr<std::unique_ptr<TestClient>> TestClient::Connect(const std::string& socket_directory,
                                                                const std::string& directory,
                                                                proto::Transfer want) {
  std::unique_ptr<TestClient> client(new TestClient);
  FrameSocket socket(ConnectTo(absl::StrCat(socket_directory, "/", proto::kHandoffSocketName)));
  if (socket.fd() < 0) return absl::UnavailableError("nobody listens");
  proto::Hello hello;
  getrandom(client->nonce_.data(), client->nonce_.size(), 0);
  hello.nonce_address = reinterpret_cast<uint64_t>(client->nonce_.data());
  memcpy(hello.nonce, client->nonce_.data(), client->nonce_.size());
  hello.want = want;
  storage::UniqueFd opened;
  std::vector<int> descriptors;
  if (!directory.empty()) {
    opened = storage::UniqueFd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    hello.has_directory = 1;
    directory.copy(hello.directory, sizeof(hello.directory) - 1);
    descriptors.push_back(opened.get());
  }
  socket.Send(BytesOf(hello), descriptors).IgnoreError();  // refused already: why lies there to be read
  auto frame = Await(socket);
  if (!frame.ok()) return frame.status();
  if (frame->bytes.size() == sizeof(proto::Refused)) {
    proto::Refused refused;
    memcpy(static_cast<void*>(&refused), frame->bytes.data(), sizeof(refused));
    return absl::Status(static_cast<absl::StatusCode>(refused.code),
                        absl::StrCat(refused.reason, ": ", refused.message));
  }
  if (frame->bytes.size() != sizeof(proto::Welcome))
    return absl::InternalError("neither Welcome nor Refused");
  memcpy(static_cast<void*>(&client->welcome_), frame->bytes.data(), sizeof(proto::Welcome));
  client->socket_ = storage::UniqueFd(fcntl(socket.fd(), F_DUPFD_CLOEXEC, 3));
  client->descriptors_ = std::move(frame->descriptors);
  client->token_ = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(client->welcome_.token), proto::kTokenBytes));
  client->daemon_page_ = static_cast<const proto::DaemonPage*>(
      mmap(nullptr, proto::kPageBytes, PROT_READ, MAP_SHARED, client->descriptors_[0].get(), 0));
  client->client_page_ = static_cast<proto::ClientPage*>(
      mmap(nullptr, proto::kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->descriptors_[1].get(), 0));
  if (client->welcome_.window_bytes > 0) {
    client->window_ =
        static_cast<std::byte*>(mmap(nullptr, client->welcome_.window_bytes, PROT_READ | PROT_WRITE,
                                     MAP_SHARED, client->descriptors_[2].get(), 0));
    client->copier_ = std::thread([raw = client.get()] { raw->CopyLoop(); });
  }
  client->channel_ =
      grpc::CreateChannel(absl::StrCat("unix://", socket_directory, "/", proto::kGrpcSocketName),
                          grpc::InsecureChannelCredentials());
  client->stub_ = v1::Sessions::NewStub(client->channel_);
  return client;
}

TestClient::~TestClient() {
  if (open_context_ != nullptr) open_context_->TryCancel();
  if (open_stream_ != nullptr) open_stream_->Finish();
  shutdown(socket_.get(), SHUT_RDWR);
  if (copier_.joinable()) copier_.join();
  munmap(const_cast<proto::DaemonPage*>(daemon_page_), proto::kPageBytes);
  munmap(client_page_, proto::kPageBytes);
  if (window_ != nullptr) munmap(window_, welcome_.window_bytes);
}

void TestClient::CopyLoop() {
  std::vector<std::byte> frame(proto::kMaxFrameBytes);
  while (recv(socket_.get(), frame.data(), frame.size(), 0) > 0) {
    proto::Copy copy;
    memcpy(static_cast<void*>(&copy), frame.data(), sizeof(copy));
    for (uint32_t i = 0; i < copy.count; ++i) {
      proto::CopyEntry entry;
      memcpy(&entry, frame.data() + sizeof(copy) + i * sizeof(entry), sizeof(entry));
      auto* own = reinterpret_cast<std::byte*>(entry.address);
      std::byte* shared = window_ + entry.window_offset_bytes;
      memcpy(copy.into_client ? own : shared, copy.into_client ? shared : own, entry.size_bytes);
    }
    proto::CopyDone done;
    done.id = copy.id;
    send(socket_.get(), &done, sizeof(done), MSG_NOSIGNAL);
  }
}

std::unique_ptr<grpc::ClientContext> TestClient::Context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata(proto::kTokenMetadataKey, token_);
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  return context;
}

absl::StatusOr<v1::Opened> TestClient::Open(int32_t rank, int32_t world_size) {
  v1::OpenRequest request;
  request.set_rank(rank);
  request.set_world_size(world_size);
  request.set_nonce(std::string(nonce_.begin(), nonce_.end()));
  open_context_ = Context();
  open_stream_ = stub_->Open(open_context_.get(), request);
  v1::SessionEvent event;
  if (open_stream_->Read(&event)) return event.opened();
  absl::Status status = FromGrpc(open_stream_->Finish());
  open_stream_ = nullptr;
  return status;
}

grpc::Status TestClient::Register(uint64_t generation, std::vector<float>& mine, int64_t first,
                                  int64_t global) {
  v1::RegisterRequest request;
  request.set_generation(generation);
  v1::Buffer* buffer = request.add_buffers();
  buffer->set_id(7);
  buffer->mutable_host()->set_address(reinterpret_cast<uint64_t>(mine.data()));
  buffer->mutable_host()->set_size_bytes(static_cast<int64_t>(mine.size() * sizeof(float)));
  v1::Shard* shard = request.add_shards();
  shard->mutable_meta()->set_fqn("w");
  shard->mutable_meta()->set_dtype("F32");
  shard->mutable_meta()->add_shape(global);
  shard->set_buffer_id(7);
  v1::Box* box = shard->mutable_boxes()->add_boxes()->mutable_box();
  box->add_origin(first);
  box->add_shape(static_cast<int64_t>(mine.size()));
  v1::RegisterResponse response;
  return stub_->Register(Context().get(), request, &response);
}

absl::StatusOr<v1::SaveStatus> TestClient::SaveAndSeal(uint64_t number, int64_t step, uint64_t generation) {
  std::atomic<uint64_t>& verdict = client_page_->verdicts[number % proto::kSaveSlots];
  verdict.store(proto::PackSlot(number, static_cast<uint8_t>(proto::Verdict::kOpen)));
  v1::SaveRequest request;
  request.set_number(number);
  request.set_step(step);
  request.set_generation(generation);
  v1::Extra* extra = request.add_extras();
  extra->set_name("rng");
  extra->add_items(absl::StrCat("state of step ", step));
  v1::SaveResponse response;
  grpc::Status status = stub_->Save(Context().get(), request, &response);
  if (!status.ok()) return FromGrpc(status);
  auto* changes = const_cast<std::atomic<uint32_t>*>(&daemon_page_->changes);
  for (uint32_t seen = changes->load(); daemon_page_->released[0].load() < number; seen = changes->load()) {
    if (daemon_page_->released[0].load() >= number) break;
    const timespec limit{0, 100'000'000};
    syscall(SYS_futex, changes, FUTEX_WAIT, seen, &limit, nullptr, 0);
  }
  verdict.store(proto::PackSlot(number, static_cast<uint8_t>(proto::Verdict::kSealed)));
  const proto::Notify notify;
  send(socket_.get(), &notify, sizeof(notify), MSG_NOSIGNAL);
  v1::WaitRequest wait;
  wait.set_number(number);
  wait.set_state(v1::COMMITTED);
  v1::SaveStatus reached;
  status = stub_->Wait(Context().get(), wait, &reached);
  if (!status.ok()) return FromGrpc(status);
  return reached;
}

absl::StatusOr<v1::LoadReport> TestClient::Load(int64_t step, uint64_t generation) {
  v1::LoadRequest request;
  request.set_step(step);
  request.set_strict(true);
  request.set_generation(generation);
  auto context = Context();
  auto stream = stub_->Load(context.get(), request);
  v1::LoadEvent event;
  v1::LoadReport report;
  while (stream->Read(&event)) {
    if (event.has_report()) report = event.report();
  }
  grpc::Status status = stream->Finish();
  if (!status.ok()) return FromGrpc(status);
  return report;
}

}  // namespace keepstep::daemon
