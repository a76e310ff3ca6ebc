// keepstep.v1.Node: what the command and operators ask of the daemon itself.

#ifndef KEEPSTEP_DAEMON_NODE_SERVICE_H_
#define KEEPSTEP_DAEMON_NODE_SERVICE_H_

#include <functional>
#include <memory>

#include "daemon/server_state.h"
#include "proto/node.grpc.pb.h"

namespace keepstep::daemon {

// No new saves; `done` gets how many stay undecided once every job has answered. `state` outlives it.
void DrainAll(ServerState& state, std::function<void(int32_t undecided)> done);

class NodeService final : public v1::Node::CallbackService {
 public:
  explicit NodeService(ServerState* state) : state_(*state) {}

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override;
  grpc::ServerUnaryReactor* Why(grpc::CallbackServerContext* context, const v1::WhyRequest* request,
                                v1::WhyResponse* response) override;
  grpc::ServerUnaryReactor* Doctor(grpc::CallbackServerContext* context, const v1::DoctorRequest* request,
                                   v1::DoctorResponse* response) override;
  grpc::ServerUnaryReactor* Reindex(grpc::CallbackServerContext* context, const v1::ReindexRequest* request,
                                    v1::ReindexResponse* response) override;
  grpc::ServerUnaryReactor* RequestSave(grpc::CallbackServerContext* context,
                                        const v1::RequestSaveRequest* request,
                                        v1::RequestSaveResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  ServerState& state_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_NODE_SERVICE_H_
