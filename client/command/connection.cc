#include "client/command/connection.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "client/address.h"
#include "client/deadline.h"
#include "client/failure.h"
#include "client/grpc_status.h"
#include "client/handoff_client.h"
#include "proto/handoff.h"

namespace keepstep::client {
namespace {

constexpr int64_t kHandshakeMs = 10'000, kStartMs = 30'000;
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

absl::StatusOr<std::unique_ptr<ChildDaemon>> StartLook(const std::vector<std::string>& roots) {
  std::vector<std::string> arguments = {"--read-only"};
  for (const std::string& root : roots) {
    std::error_code error;
    const std::filesystem::path path = std::filesystem::canonical(root, error);
    if (error) return absl::NotFoundError(absl::StrCat("--root ", root, ": ", error.message()));
    arguments.insert(arguments.end(), {"--root", path.string()});
  }
  auto program = FindKeepstepd();
  if (!program.ok()) return program.status();
  return ChildDaemon::Start(*program, arguments, kStartMs);
}

// UNAVAILABLE with a reason of its own comes from a daemon that is there.
int ExitCode(absl::StatusCode code, absl::string_view reason) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
      return reason.empty() || reason == "NO_DAEMON" ? kExitNoDaemon : kExitFailed;
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

std::string Json(const google::protobuf::Message& message, bool whitespace) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = whitespace;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  return google::protobuf::util::MessageToJsonString(message, &text, options).ok() ? text : "";
}

}  // namespace

struct Connection::Handoff {
  uint8_t nonce[proto::kNonceBytes] = {};  // no buffers are handed over, so it says nothing
  std::shared_ptr<HandoffClient> client;
};

Connection::~Connection() = default;

bool Connection::pulls() const { return handoff_->client->transfer() == proto::Transfer::kPull; }

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Globals& globals,
                                                             const std::string& directory, bool create) {
  std::string at = globals.address.empty() ? DefaultAddress() : globals.address;
  std::unique_ptr<ChildDaemon> own;
  if (!globals.roots.empty()) {
    auto started = StartLook(globals.roots);
    if (!started.ok()) return started.status();
    own = *std::move(started);
    at = own->address();
  }
  auto address = ParseAddress(at);
  if (!address.ok()) return address.status();
  UniqueFd directory_fd;
  if (!directory.empty()) {
    auto opened = OpenDirectory(directory, create);
    if (!opened.ok()) return opened.status();
    directory_fd = *std::move(opened);
  }
  std::unique_ptr<Connection> connection(new Connection);
  connection->own_ = std::move(own);
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

std::unique_ptr<grpc::ClientContext> Connection::UnlimitedContext() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata(proto::kTokenMetadataKey, token_);
  return context;
}

std::unique_ptr<grpc::ClientContext> Connection::Context(int64_t more_ms) const {
  auto context = UnlimitedContext();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms_ + more_ms));
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
  const int code = ExitCode(status.code(), reason);
  const std::string hint =
      code == kExitNoDaemon ? "keepstep up starts one; --address names another; --root DIR looks without one"
                            : next;
  fprintf(stderr, "keepstep: %s%s%s\n", std::string(status.message()).c_str(),
          reason.empty() ? "" : absl::StrCat(" [", reason, "]").c_str(),
          hint.empty() ? "" : absl::StrCat("\n  try: ", hint).c_str());
  return code;
}

int Complain(const grpc::Status& status, const std::string& next) { return Complain(FromGrpc(status), next); }

void PrintJson(const google::protobuf::Message& message) { fputs(Json(message, true).c_str(), stdout); }

void PrintJsonLine(const google::protobuf::Message& message) { puts(Json(message, false).c_str()); }

}  // namespace keepstep::client
