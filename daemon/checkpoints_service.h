// keepstep.v1.Checkpoints: looking, reading, writing without a trainer, checking, deleting.

#ifndef KEEPSTEP_DAEMON_CHECKPOINTS_SERVICE_H_
#define KEEPSTEP_DAEMON_CHECKPOINTS_SERVICE_H_

#include <memory>
#include <string>

#include "daemon/server_state.h"
#include "proto/checkpoints.grpc.pb.h"

namespace keepstep::daemon {

class CheckpointsService final : public v1::Checkpoints::CallbackService {
 public:
  explicit CheckpointsService(ServerState* state) : state_(*state) {}

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                 v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context, const v1::GetRequest* request,
                                v1::CheckpointInfo* response) override;
  grpc::ServerUnaryReactor* QueryTensors(grpc::CallbackServerContext* context,
                                         const v1::QueryTensorsRequest* request,
                                         v1::QueryTensorsResponse* response) override;
  grpc::ServerWriteReactor<v1::ReadChunk>* Read(grpc::CallbackServerContext* context,
                                                const v1::ReadRequest* request) override;
  grpc::ServerUnaryReactor* Begin(grpc::CallbackServerContext* context, const v1::BeginRequest* request,
                                  v1::BeginResponse* response) override;
  grpc::ServerReadReactor<v1::WriteChunk>* Write(grpc::CallbackServerContext* context,
                                                 v1::WriteResponse* response) override;
  grpc::ServerUnaryReactor* Commit(grpc::CallbackServerContext* context, const v1::CommitRequest* request,
                                   v1::CheckpointInfo* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerWriteReactor<v1::VerifyEvent>* Verify(grpc::CallbackServerContext* context,
                                                    const v1::VerifyRequest* request) override;
  grpc::ServerUnaryReactor* Pin(grpc::CallbackServerContext* context, const v1::PinRequest* request,
                                v1::PinResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context, const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context, const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;

 private:
  absl::StatusOr<std::shared_ptr<Job>> JobOf(const grpc::CallbackServerContext& context,
                                             const std::string& name);
  absl::StatusOr<std::shared_ptr<Job>> JobOfAttempt(const grpc::CallbackServerContext& context,
                                                    const std::string& attempt);
  absl::StatusOr<FoundCheckpoint> Find(const grpc::CallbackServerContext& context,
                                       const v1::CheckpointName& name);
  absl::Status FillInfo(const Job& job, const v1::Decision& decision, v1::CheckpointInfo& info);
  absl::Status DeleteStep(const grpc::CallbackServerContext& context, const v1::DeleteRequest& request,
                          v1::DeleteResponse& response);
  absl::Status VerifyOne(const grpc::CallbackServerContext& context, const v1::VerifyRequest& request,
                         const std::function<absl::Status(const v1::VerifyEvent&)>& tell,
                         Cancellation& cancel);

  ServerState& state_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CHECKPOINTS_SERVICE_H_
