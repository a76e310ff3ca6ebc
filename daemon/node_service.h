// keepstep.v1.Node: what the command and operators ask of the daemon itself.

#ifndef KEEPSTEP_DAEMON_NODE_SERVICE_H_
#define KEEPSTEP_DAEMON_NODE_SERVICE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/server_state.h"
#include "proto/node.grpc.pb.h"

namespace keepstep::daemon {

// No new saves; returns how many are undecided when all are decided or `limit` has passed. Blocks.
int32_t DrainAll(ServerState& state, std::chrono::milliseconds limit);

class NodeService final : public v1::Node::CallbackService {
 public:
  explicit NodeService(ServerState* state) : state_(*state) {}

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override;
  grpc::ServerUnaryReactor* Why(grpc::CallbackServerContext* context, const v1::WhyRequest* request,
                                v1::WhyResponse* response) override;
  grpc::ServerWriteReactor<v1::LogLine>* Logs(grpc::CallbackServerContext* context,
                                              const v1::LogsRequest* request) override;
  grpc::ServerWriteReactor<v1::BundleChunk>* Bundle(grpc::CallbackServerContext* context,
                                                    const v1::BundleRequest* request) override;
  grpc::ServerUnaryReactor* Doctor(grpc::CallbackServerContext* context, const v1::DoctorRequest* request,
                                   v1::DoctorResponse* response) override;
  grpc::ServerUnaryReactor* Reindex(grpc::CallbackServerContext* context, const v1::ReindexRequest* request,
                                    v1::ReindexResponse* response) override;
  grpc::ServerUnaryReactor* Collect(grpc::CallbackServerContext* context, const v1::CollectRequest* request,
                                    v1::CollectResponse* response) override;
  grpc::ServerUnaryReactor* RequestSave(grpc::CallbackServerContext* context,
                                        const v1::RequestSaveRequest* request,
                                        v1::RequestSaveResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  // The job that a request names or the session's directory is; else all that the caller may see.
  absl::StatusOr<std::vector<std::shared_ptr<Job>>> Chosen(const std::string& name,
                                                           const ClientSession* session);

  absl::Status FillStatus(const std::string& job_name, const ClientSession* session,
                          v1::StatusResponse& response);

  ServerState& state_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_NODE_SERVICE_H_
