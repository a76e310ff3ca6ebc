#include "tests/fuzz/rpc_world.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <list>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/daemon.h"
#include "daemon/test_client.h"
#include "google/protobuf/descriptor.h"
#include "proto/handoff.h"
#include "proto/rpc_status.pb.h"
#include "reshard/check.h"
#include "tests/fuzz/rpc_cases.pb.h"

namespace keepstep::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using std::chrono::milliseconds;

constexpr int kCasesPerWorld = 200, kMostCalls = 24;
// In longer cases a drain is left out: each costs a new daemon, and mutations spread it.
constexpr int kMostCallsWithDrain = 6;
constexpr uint64_t kArenaBytes = 1 << 20, kArenaReach = uint64_t{1} << 36, kLowestAddress = 1 << 16;
constexpr int64_t kMostElements = 1 << 18;  // of a tensor: a case must not fill the disk
constexpr milliseconds kCallLimit(200), kWaitLimit(30), kOpenLimit(500);

// Memory that requests may name: whatever a load writes lands here, or in pages that nobody may touch.
uint8_t* Arena() {
  static auto* const arena = [] {
    void* base = mmap(nullptr, kArenaReach, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KEEPSTEP_CHECK(base != MAP_FAILED, "no address space");
    KEEPSTEP_CHECK(mprotect(base, kArenaBytes, PROT_READ | PROT_WRITE) == 0, "no memory");
    return static_cast<uint8_t*>(base);
  }();
  return arena;
}

bool IsLarge(const v1::Shard& shard) {
  __int128 elements = 1;
  for (const int64_t extent : shard.meta().shape()) {
    if (extent > 0 && elements <= kMostElements) elements *= extent;
  }
  return elements > kMostElements;
}

void DropLarge(google::protobuf::RepeatedPtrField<v1::Shard>& shards) {
  for (int i = shards.size() - 1; i >= 0; --i) {
    if (IsLarge(shards.Get(i))) shards.DeleteSubrange(i, 1);
  }
}

// A wild address is one that is never mapped; another would be this process's own memory.
void Tame(v1::RegisterRequest& request) {
  DropLarge(*request.mutable_shards());
  for (v1::Buffer& buffer : *request.mutable_buffers()) {
    if (!buffer.has_host() || buffer.host().address() < kLowestAddress) continue;
    buffer.mutable_host()->set_address(reinterpret_cast<uint64_t>(Arena()) +
                                       buffer.host().address() % kArenaBytes);
    if (buffer.host().size_bytes() > static_cast<int64_t>(kArenaReach / 2)) {
      buffer.mutable_host()->set_size_bytes(static_cast<int64_t>(kArenaReach / 2));
    }
  }
}

class World {
 public:
  World() {
    // In memory where that is possible: most of a case's time would be flushes. Short: a socket's path has a
    // limit.
    directory_ = "/dev/shm/ks-fuzz-XXXXXX";
    if (mkdtemp(directory_.data()) == nullptr) {
      directory_ = "/tmp/ks-fuzz-XXXXXX";
      KEEPSTEP_CHECK(mkdtemp(directory_.data()) != nullptr, "no directory for a daemon");
    }
    std::filesystem::create_directories(directory_ + "/root/job");
    daemon::DaemonSpec spec;
    spec.socket_directory = directory_;
    spec.state_directory = directory_ + "/state";
    spec.roots = {directory_ + "/root"};
    spec.pool_bytes = int64_t{64} << 20;
    spec.log_level = daemon::Log::Level::kError;
    auto started = daemon::Daemon::Start(spec);
    KEEPSTEP_CHECK(started.ok(), std::string(started.status().message()).c_str());
    signal(SIGTERM, SIG_IGN);  // what Drain sends to end the process; libFuzzer would take it for itself
    daemon_ = *std::move(started);
  }
  ~World() {
    daemon_ = nullptr;
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  std::unique_ptr<daemon::Daemon> daemon_;
};

// One call of any kind, as bytes: the request, then whatever comes.
class Call {
 public:
  Call(grpc::GenericStub& stub, const std::string& method, const std::string& token, milliseconds limit) {
    if (!token.empty()) context_.AddMetadata(proto::kTokenMetadataKey, token);
    context_.set_deadline(std::chrono::system_clock::now() + limit);
    stream_ = stub.PrepareCall(&context_, method, &queue_);
  }
  ~Call() {
    context_.TryCancel();
    if (!finished_) Finish();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void Send(const Message& request) {
    const grpc::Slice slice(request.SerializeAsString());
    const grpc::ByteBuffer bytes(&slice, 1);
    stream_->StartCall(nullptr);
    if (!Done()) return;
    stream_->WriteLast(bytes, grpc::WriteOptions(), nullptr);
    Done();
  }
  // False at the end of the stream.
  bool Read(std::string* answer) {
    grpc::ByteBuffer bytes;
    stream_->Read(&bytes, nullptr);
    if (!Done()) return false;
    std::vector<grpc::Slice> slices;
    if (answer == nullptr || !bytes.Dump(&slices).ok()) return true;
    answer->clear();
    for (const grpc::Slice& slice : slices)
      answer->append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return true;
  }
  grpc::Status Finish() {
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Done();
    finished_ = true;
    return status;
  }

 private:
  bool Done() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool finished_ = false;
};

// A client's own end, a connection that ended, and a limit that passed say nothing about the request.
void CheckAnswer(const grpc::Status& status, const std::string& method) {
  const grpc::StatusCode code = status.error_code();
  if (code == grpc::OK || code == grpc::DEADLINE_EXCEEDED || code == grpc::CANCELLED) return;
  const bool known = code != grpc::UNKNOWN && code != grpc::INTERNAL && code != grpc::UNIMPLEMENTED;
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  const bool has_reason = details.ParseFromString(status.error_details()) && details.details_size() == 1 &&
                          info.ParseFromString(details.details(0).value()) && !info.reason().empty();
  if (!known || !has_reason) {
    std::fprintf(stderr, "%s: %d %s\n", method.c_str(), static_cast<int>(code),
                 status.error_message().c_str());
  }
  KEEPSTEP_CHECK(known, "an answer with a code that the API does not have");
  KEEPSTEP_CHECK(has_reason, "an error without a reason");
}

class Client {
 public:
  explicit Client(const World& world) {
    auto connected = daemon::TestClient::Connect(world.directory(), world.directory() + "/root/job",
                                                 proto::Transfer::kPull);
    KEEPSTEP_CHECK(connected.ok(),
                   absl::StrCat("the daemon takes no session: ", connected.status().ToString()).c_str());
    client_ = *std::move(connected);
    stub_ = std::make_unique<grpc::GenericStub>(client_->channel());
  }
  ~Client() {
    open_.clear();
    const proto::Goodbye goodbye;
    send(client_->socket_fd(), &goodbye, sizeof(goodbye), MSG_NOSIGNAL);
  }

  void Do(const Message& call) {
    const google::protobuf::Reflection& reflection = *call.GetReflection();
    const FieldDescriptor* what =
        reflection.GetOneofFieldDescriptor(call, call.GetDescriptor()->oneof_decl(0));
    if (what == nullptr) return;
    if (what->type() == FieldDescriptor::TYPE_BYTES) {
      const std::string frame = reflection.GetString(call, what);
      send(client_->socket_fd(), frame.data(), frame.size(), MSG_NOSIGNAL);
      return;
    }
    const Message& request = reflection.GetMessage(call, what);
    if (request.GetDescriptor() == Words::descriptor()) return Write(static_cast<const Words&>(request));
    const FieldDescriptor* without = call.GetDescriptor()->FindFieldByName("without_token");
    Ask(request, without != nullptr && reflection.GetBool(call, without));
  }

  void CheckServes() {
    Call call(*stub_, "/keepstep.v1.Node/Status", client_->token(), milliseconds(20'000));
    call.Send(v1::StatusRequest());
    std::string answer;
    const bool answered = call.Read(&answer);
    KEEPSTEP_CHECK(answered && call.Finish().ok(), "the daemon no longer serves");
  }

 private:
  void Write(const Words& words) {
    proto::ClientPage& page = client_->client_page();
    for (int i = 0; i < words.verdicts_size() && i < proto::kSaveSlots; ++i)
      page.verdicts[i] = words.verdicts(i);
    page.step_stored = words.step_stored();
    page.update_sequence = words.update_sequence();
    const proto::Notify notify;
    send(client_->socket_fd(), &notify, sizeof(notify), MSG_NOSIGNAL);
  }

  static std::string MethodOf(const Message& request) {
    for (const char* name : {"Sessions", "Checkpoints", "Node"}) {
      const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
          absl::StrCat("keepstep.v1.", name));
      for (int i = 0; i < service->method_count(); ++i) {
        if (service->method(i)->input_type() == request.GetDescriptor())
          return absl::StrCat("/keepstep.v1.", name, "/", service->method(i)->name());
      }
    }
    KEEPSTEP_CHECK(false, "a request that no method takes");
  }

  // What only waits must not make cases slow: more of them find more than longer ones.
  static milliseconds LimitOf(const Message& request) {
    const auto* type = request.GetDescriptor();
    if (type == v1::OpenRequest::descriptor()) return kOpenLimit;
    for (const auto* waits : {v1::WaitRequest::descriptor(), v1::WatchRequest::descriptor(),
                              v1::RequestSaveRequest::descriptor(), v1::DrainRequest::descriptor()}) {
      if (type == waits) return kWaitLimit;
    }
    return kCallLimit;
  }

  void Ask(const Message& asked, bool without_token) {
    std::unique_ptr<Message> request(asked.New());
    // gRPC answers for itself where a string is not UTF-8.
    if (!request->ParseFromString(asked.SerializeAsString())) return;
    if (auto* registration = dynamic_cast<v1::RegisterRequest*>(request.get())) Tame(*registration);
    // What follows the log never ends by itself.
    if (auto* logs = dynamic_cast<v1::LogsRequest*>(request.get())) logs->set_follow(false);
    if (auto* begin = dynamic_cast<v1::BeginRequest*>(request.get())) DropLarge(*begin->mutable_shards());
    if (const auto* field = request->GetDescriptor()->FindFieldByName("attempt"); field != nullptr) {
      if (request->GetReflection()->GetString(*request, field) == "$")
        request->GetReflection()->SetString(request.get(), field, attempt_);
    }
    const std::string method = MethodOf(*request);
    const bool opens = request->GetDescriptor() == v1::OpenRequest::descriptor();
    auto call =
        std::make_unique<Call>(*stub_, method, without_token ? "" : client_->token(), LimitOf(*request));
    call->Send(*request);
    std::string answer;
    bool more = call->Read(&answer);
    if (opens && more) return open_.push_back(std::move(call));  // the session lasts as long as its stream
    v1::BeginResponse begun;
    if (more && request->GetDescriptor() == v1::BeginRequest::descriptor() && begun.ParseFromString(answer))
      attempt_ = begun.attempt();
    while (more) more = call->Read(nullptr);
    CheckAnswer(call->Finish(), method);
  }

  std::unique_ptr<daemon::TestClient> client_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::list<std::unique_ptr<Call>> open_;
  std::string attempt_;
};

void CheckComplete(const google::protobuf::Descriptor& call, const std::string& service_name) {
  const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service_name);
  KEEPSTEP_CHECK(service != nullptr, "no such service");
  for (int i = 0; i < service->method_count(); ++i) {
    bool has = false;
    for (int k = 0; k < call.field_count(); ++k)
      has = has || call.field(k)->message_type() == service->method(i)->input_type();
    if (!has) std::fprintf(stderr, "%s\n", service->method(i)->full_name().c_str());
    KEEPSTEP_CHECK(has, "a method without a field in tests/fuzz/rpc_cases.proto");
  }
}

bool Drains(const Message& call) {
  const FieldDescriptor* drain = call.GetDescriptor()->FindFieldByName("drain");
  return drain != nullptr && call.GetReflection()->HasField(call, drain);
}

}  // namespace

void RunCalls(const Message& value, absl::string_view service) {
  static std::unique_ptr<World>& world = *new std::unique_ptr<World>;
  static int cases = 0;
  const FieldDescriptor* calls = value.GetDescriptor()->FindFieldByName("calls");
  CheckComplete(*calls->message_type(), std::string(service));
  if (world == nullptr || ++cases >= kCasesPerWorld) {
    world = nullptr;
    world = std::make_unique<World>();
    cases = 0;
  }
  bool drained = false;
  {
    Client client(*world);
    const int count = value.GetReflection()->FieldSize(value, calls);
    for (int i = 0; i < count && i < kMostCalls; ++i) {
      const Message& call = value.GetReflection()->GetRepeatedMessage(value, calls, i);
      if (Drains(call) && count > kMostCallsWithDrain) continue;
      client.Do(call);
      drained = drained || Drains(call);
    }
  }
  if (!drained) {
    Client(*world).CheckServes();
  } else {
    world = nullptr;  // it is over, as asked
  }
  // Said after gRPC has set itself up, so that the last daemon ends before what it needs does.
  [[maybe_unused]] static const int ends = std::atexit([] { world = nullptr; });
}

}  // namespace keepstep::fuzz
