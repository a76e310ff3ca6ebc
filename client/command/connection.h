// The command's way to a daemon: a handoff without buffers, then gRPC with the token.

#ifndef KEEPSTEP_CLIENT_COMMAND_CONNECTION_H_
#define KEEPSTEP_CLIENT_COMMAND_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/command/launch.h"
#include "client/command/names.h"
#include "proto/checkpoints.grpc.pb.h"
#include "proto/node.grpc.pb.h"

namespace keepstep::client {

struct Globals {
  std::string address;
  std::vector<std::string> roots;  // look there without a daemon; `up`: its roots
  bool json = false;
  int64_t timeout_ms = 600'000;
};

class Connection {
 public:
  // With `directory`, the daemon gets a descriptor of it, opened as the caller; made if `create`.
  // UNAVAILABLE: no daemon.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const Globals& globals,
                                                          const std::string& directory = "",
                                                          bool create = false);
  // As above for the job that `name` means; a label needs no descriptor.
  static absl::StatusOr<std::unique_ptr<Connection>> For(const Globals& globals, const Name& name,
                                                         bool create = false);
  // With globals.roots, a daemon of this process's own that only looks (keepstepd --read-only) is started
  // first, and ends with the connection.
  ~Connection();

  // A context with the token and the deadline, or a later one.
  std::unique_ptr<grpc::ClientContext> Context(int64_t more_ms = 0) const;
  // For streams that go on until somebody ends them.
  std::unique_ptr<grpc::ClientContext> UnlimitedContext() const;
  bool pulls() const;  // whether the daemon can read this process's memory
  v1::Checkpoints::Stub& checkpoints() const { return *checkpoints_; }
  v1::Node::Stub& node() const { return *node_; }

 private:
  struct Handoff;
  Connection() = default;

  std::unique_ptr<ChildDaemon> own_;  // ends last
  std::unique_ptr<Handoff> handoff_;
  std::string token_;
  int64_t timeout_ms_ = 0;
  std::unique_ptr<v1::Checkpoints::Stub> checkpoints_;
  std::unique_ptr<v1::Node::Stub> node_;
};

v1::CheckpointName ToProto(const Name& name);

// Exit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 not found, 5 damaged, 6 timeout.
inline constexpr int kExitFailed = 1, kExitUsage = 2, kExitNoDaemon = 3, kExitNotFound = 4, kExitDamaged = 5,
                     kExitTimeout = 6;

// Prints one line on stderr and the next command to try; returns the exit code.
int Complain(const absl::Status& status, const std::string& next = "");
int Complain(const grpc::Status& status, const std::string& next = "");

// The message as JSON on stdout; the second on one line.
void PrintJson(const google::protobuf::Message& message);
void PrintJsonLine(const google::protobuf::Message& message);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_CONNECTION_H_
