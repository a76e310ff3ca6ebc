// The listener of the gRPC socket: accepts, counts, and hands connections to the server.
//
// gRPC's own listener bounds nothing, and closes for good when the process is out of descriptors: whoever may
// connect could end the service for all. Here
//   1. a connection beyond the limits, of all users or of one, is closed at once: its caller sees
//   UNAVAILABLE;
//   2. an accept that fails for want of descriptors or memory is tried again;
//   3. a connection that carries no call for long is closed by gRPC (GRPC_ARG_MAX_CONNECTION_IDLE_MS), so
//   that those
//      who connect and say nothing do not hold the others' places.
// gRPC does not tell when a connection has ended. One is known by its descriptor's number and its socket's
// inode: as long as the number still names that inode, it is open.

#ifndef KEEPSTEP_DAEMON_GRPC_LISTENER_H_
#define KEEPSTEP_DAEMON_GRPC_LISTENER_H_

#include <grpcpp/server.h>
#include <sys/types.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

struct GrpcListenerSpec {
  std::string socket_path;  // nothing is there
  int max_connections = 8192;
};

class GrpcListener {
 public:
  // `server` outlives it.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Start(const GrpcListenerSpec& spec,
                                                             grpc::Server* server);
  ~GrpcListener();  // accepts no more; connections stay the server's
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  // For those who connect from now on. Any thread.
  void SetMaxConnections(int max_connections) { max_connections_ = max_connections; }

 private:
  struct Connection {
    ino_t inode = 0;
    uid_t user = 0;
  };

  GrpcListener(const GrpcListenerSpec& spec, grpc::Server* server, storage::UniqueFd listener,
               storage::UniqueFd wake);
  void Run();
  void Accept();
  void ForgetEnded();
  int CountOf(uid_t user) const;

  const GrpcListenerSpec spec_;
  std::atomic<int> max_connections_;
  grpc::Server* const server_;
  storage::UniqueFd listener_, wake_;
  std::map<int, Connection> connections_;  // by descriptor; touched by thread_ alone
  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_GRPC_LISTENER_H_
