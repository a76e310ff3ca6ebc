// keepstep.v1.Sessions: trainers and readers.

#ifndef KEEPSTEP_DAEMON_SESSIONS_SERVICE_H_
#define KEEPSTEP_DAEMON_SESSIONS_SERVICE_H_

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/kept_worlds.h"
#include "daemon/reactors.h"
#include "daemon/server_state.h"
#include "proto/sessions.grpc.pb.h"

namespace keepstep::daemon {

class SessionsService final : public v1::Sessions::CallbackService {
 public:
  explicit SessionsService(ServerState* state) : state_(*state) {}

  grpc::ServerWriteReactor<v1::SessionEvent>* Open(grpc::CallbackServerContext* context,
                                                   const v1::OpenRequest* request) override;
  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override;
  grpc::ServerUnaryReactor* Save(grpc::CallbackServerContext* context, const v1::SaveRequest* request,
                                 v1::SaveResponse* response) override;
  // Save as proto/handoff.h's AskSave: answered in the session's page. Does not block; any thread.
  void SaveAsked(const std::shared_ptr<ClientSession>& session, absl::string_view request);
  grpc::ServerWriteReactor<v1::LoadEvent>* Load(grpc::CallbackServerContext* context,
                                                const v1::LoadRequest* request) override;
  grpc::ServerUnaryReactor* Wait(grpc::CallbackServerContext* context, const v1::WaitRequest* request,
                                 v1::SaveStatus* response) override;
  grpc::ServerWriteReactor<v1::SaveStatus>* Watch(grpc::CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* Allocate(grpc::CallbackServerContext* context, const v1::AllocateRequest* request,
                                     v1::AllocateResponse* response) override;
  grpc::ServerUnaryReactor* Restart(grpc::CallbackServerContext* context, const v1::RestartRequest* request,
                                    v1::RestartResponse* response) override;
  grpc::ServerUnaryReactor* Free(grpc::CallbackServerContext* context, const v1::FreeRequest* request,
                                 v1::FreeResponse* response) override;
  grpc::ServerUnaryReactor* GetExtra(grpc::CallbackServerContext* context, const v1::GetExtraRequest* request,
                                     v1::GetExtraResponse* response) override;

 private:
  // Checks the request and passes it to the session's job; `done` runs on the job's strand, unless this
  // fails.
  absl::Status StartSave(ClientSession& session, const v1::SaveRequest& request,
                         std::function<void(absl::StatusOr<v1::SaveResponse>)> done);
  void ReservePool();
  absl::StatusOr<LentPiece> NewPiece(const Membership& member, const PieceName& name, int64_t size_bytes);
  void AskWarm(const std::shared_ptr<EventUnary>& unary, const std::shared_ptr<ClientSession>& session,
               std::shared_ptr<const Registration> registration, const AnswerLoad& found, v1::RestartResponse* response);
  absl::Status GoOn(ClientSession& session, std::shared_ptr<const Registration> registration, const WarmAnswer& answer,
                    v1::RestartResponse* response);
  absl::StatusOr<FoundCheckpoint> FindForReader(const Membership& member, bool latest, int64_t step);

  ServerState& state_;
  std::mutex mutex_;
  std::list<std::pair<std::string, std::pair<int64_t, std::string>>>
      runs_;  // of readers: job and run → step, attempt
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SESSIONS_SERVICE_H_
