#include "client/command/connection.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/address.h"
#include "client/deadline.h"
#include "client/failure.h"
#include "client/grpc_status.h"
#include "client/handoff_client.h"
#include "proto/handoff.h"

namespace keepstep::client {
namespace {

constexpr int64_t kHandshakeMs = 10'000;
constexpr int kMaxMessageBytes = 64 << 20;
constexpr mode_t kDirectoryMode = 0777;  // the caller's umask decides

absl::StatusOr<UniqueFd> OpenDirectory(const std::string& directory, bool create) {
  if (create && mkdir(directory.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    return absl::FailedPreconditionError(absl::StrCat("cannot make ", directory, ": ", strerror(errno)));
  }
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid()) return fd;
  const std::string message = absl::StrCat("cannot open ", directory, ": ", strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
}

int ExitCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
      return kExitNoDaemon;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kDataLoss:
      return kExitDamaged;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitTimeout;
    default:
      return kExitFailed;
  }
}

}  // namespace

struct Connection::Handoff {
  uint8_t nonce[proto::kNonceBytes] = {};  // no buffers are handed over, so it says nothing
  std::shared_ptr<HandoffClient> client;
};

Connection::~Connection() = default;

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Globals& globals,
                                                             const std::string& directory, bool create) {
  auto address = ParseAddress(globals.address.empty() ? DefaultAddress() : globals.address);
  if (!address.ok()) return address.status();
  UniqueFd directory_fd;
  if (!directory.empty()) {
    auto opened = OpenDirectory(directory, create);
    if (!opened.ok()) return opened.status();
    directory_fd = *std::move(opened);
  }
  std::unique_ptr<Connection> connection(new Connection);
  connection->handoff_ = std::make_unique<Handoff>();
  HandoffSpec spec;
  spec.socket_path = address->handoff_path;
  spec.directory = directory;
  spec.directory_fd = directory_fd.get();
  spec.nonce = connection->handoff_->nonce;
  auto handoff = HandoffClient::Connect(spec, After(kHandshakeMs));
  if (!handoff.ok()) return handoff.status();
  connection->handoff_->client = *std::move(handoff);
  connection->token_ = connection->handoff_->client->token_hex();
  connection->timeout_ms_ = globals.timeout_ms;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel = grpc::CreateCustomChannel(absl::StrCat("unix:", address->grpc_path),
                                                 grpc::InsecureChannelCredentials(), arguments);
  connection->checkpoints_ = v1::Checkpoints::NewStub(channel);
  connection->node_ = v1::Node::NewStub(channel);
  return connection;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::For(const Globals& globals, const Name& name,
                                                            bool create) {
  return name.is_directory ? Open(globals, name.job, create) : Open(globals);
}

std::unique_ptr<grpc::ClientContext> Connection::Context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata(proto::kTokenMetadataKey, token_);
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms_));
  return context;
}

v1::CheckpointName ToProto(const Name& name) {
  v1::CheckpointName out;
  if (!name.is_directory) out.set_job(name.job);
  out.set_latest(name.latest);
  out.set_step(name.step.value_or(0));
  return out;
}

int Complain(const absl::Status& status, const std::string& next) {
  const std::string reason = BlameOf(status).reason;
  std::string hint = next;
  if (status.code() == absl::StatusCode::kUnavailable && hint.empty()) {
    hint = "keepstepd --help says how to start one; --address names another";
  }
  fprintf(stderr, "keepstep: %s%s%s\n", std::string(status.message()).c_str(),
          reason.empty() ? "" : absl::StrCat(" [", reason, "]").c_str(),
          hint.empty() ? "" : absl::StrCat("\n  try: ", hint).c_str());
  return ExitCode(status.code());
}

int Complain(const grpc::Status& status, const std::string& next) { return Complain(FromGrpc(status), next); }

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (google::protobuf::util::MessageToJsonString(message, &text, options).ok()) fputs(text.c_str(), stdout);
}

}  // namespace keepstep::client
