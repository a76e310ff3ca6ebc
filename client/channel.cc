#include "client/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>

#include <mutex>
#include <set>

#include "absl/strings/str_cat.h"
#include "client/grpc_status.h"
#include "proto/checkpoints.grpc.pb.h"
#include "proto/handoff.h"
#include "proto/sessions.grpc.pb.h"

namespace keepstep::client {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr int kReconnectFirstMs = 20, kReconnectLastMs = 1000;

std::shared_ptr<grpc::Channel> Dial(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A session never shares a connection: its end is the daemon's sign that this client is gone.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A call that is not idempotent by itself is tried again by this library, which knows which are.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectFirstMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectLastMs);
  return grpc::CreateCustomChannel(absl::StrCat("unix:", socket_path), grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace

struct Channel::Rep {
  std::string token;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Checkpoints::Stub> checkpoints;
  std::mutex mu;
  std::set<grpc::ClientContext*> active;  // guarded by mu
  bool cancelled = false;                 // guarded by mu
};

// A call's context, known to Cancel for as long as the call lasts.
class Channel::Call {
 public:
  Call(Rep* rep, Deadline deadline) : rep_(rep) {
    context_.AddMetadata(proto::kTokenMetadataKey, rep->token);
    if (deadline != kNever) {
      const auto left = deadline - std::chrono::steady_clock::now();
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
    }
    std::lock_guard lock(rep_->mu);
    rep_->active.insert(&context_);
    if (rep_->cancelled) context_.TryCancel();
  }
  ~Call() {
    std::lock_guard lock(rep_->mu);
    rep_->active.erase(&context_);
  }

  grpc::ClientContext* context() { return &context_; }

 private:
  Rep* rep_;
  grpc::ClientContext context_;
};

Channel::Channel(const std::string& socket_path, const std::string& token_hex) : rep_(new Rep) {
  rep_->token = token_hex;
  rep_->channel = Dial(socket_path);
  rep_->sessions = v1::Sessions::NewStub(rep_->channel);
  rep_->checkpoints = v1::Checkpoints::NewStub(rep_->channel);
}

Channel::~Channel() = default;

absl::Status Channel::Open(const v1::OpenRequest& request,
                           const std::function<void(const v1::SessionEvent&)>& on_event) {
  Call call(rep_.get(), kNever);
  auto stream = rep_->sessions->Open(call.context(), request);
  v1::SessionEvent event;
  while (stream->Read(&event)) on_event(event);
  return FromGrpc(stream->Finish());
}

absl::Status Channel::Register(const v1::RegisterRequest& request, Deadline deadline,
                               v1::RegisterResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->Register(call.context(), request, response));
}

absl::Status Channel::Save(const v1::SaveRequest& request, Deadline deadline, v1::SaveResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->Save(call.context(), request, response));
}

absl::Status Channel::Wait(const v1::WaitRequest& request, Deadline deadline, v1::SaveStatus* status) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->Wait(call.context(), request, status));
}

absl::Status Channel::Load(const v1::LoadRequest& request, Deadline deadline,
                           const std::function<void(const v1::LoadEvent&)>& on_event) {
  Call call(rep_.get(), deadline);
  auto stream = rep_->sessions->Load(call.context(), request);
  v1::LoadEvent event;
  while (stream->Read(&event)) on_event(event);
  return FromGrpc(stream->Finish());
}

absl::Status Channel::GetExtra(const v1::GetExtraRequest& request, Deadline deadline,
                               v1::GetExtraResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->GetExtra(call.context(), request, response));
}

absl::Status Channel::Allocate(const v1::AllocateRequest& request, Deadline deadline,
                               v1::AllocateResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->Allocate(call.context(), request, response));
}

absl::Status Channel::Restart(const v1::RestartRequest& request, Deadline deadline, v1::RestartResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->sessions->Restart(call.context(), request, response));
}

absl::Status Channel::Free(const v1::FreeRequest& request, Deadline deadline) {
  Call call(rep_.get(), deadline);
  v1::FreeResponse response;
  return FromGrpc(rep_->sessions->Free(call.context(), request, &response));
}

absl::Status Channel::List(const v1::ListRequest& request, Deadline deadline, v1::ListResponse* response) {
  Call call(rep_.get(), deadline);
  return FromGrpc(rep_->checkpoints->List(call.context(), request, response));
}

void Channel::Cancel() {
  std::lock_guard lock(rep_->mu);
  rep_->cancelled = true;
  for (grpc::ClientContext* context : rep_->active) context->TryCancel();
}

}  // namespace keepstep::client
