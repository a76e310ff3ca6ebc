// The gRPC side of one session: a stub whose every call carries the session's token and a deadline.
//
// gRPC's headers stay in channel.cc.

#ifndef KEEPSTEP_CLIENT_CHANNEL_H_
#define KEEPSTEP_CLIENT_CHANNEL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/deadline.h"

namespace keepstep::v1 {
class AllocateRequest;
class AllocateResponse;
class FreeRequest;
class GetExtraRequest;
class GetExtraResponse;
class ListRequest;
class ListResponse;
class LoadEvent;
class LoadRequest;
class OpenRequest;
class RegisterRequest;
class RegisterResponse;
class RestartRequest;
class RestartResponse;
class SaveRequest;
class SaveResponse;
class SaveStatus;
class SessionEvent;
class WaitRequest;
}  // namespace keepstep::v1

namespace keepstep::client {

// Thread-safe. Every call blocks until answered, its deadline, or Cancel. Errors are the daemon's, with its
// reason (client/failure.h), or gRPC's own, which have none.
class Channel {
 public:
  Channel(const std::string& socket_path, const std::string& token_hex);
  ~Channel();  // after every call has returned

  // Runs until the daemon or Cancel ends the stream; `on_event` is called on this thread.
  absl::Status Open(const v1::OpenRequest& request,
                    const std::function<void(const v1::SessionEvent&)>& on_event);
  absl::Status Register(const v1::RegisterRequest& request, Deadline deadline,
                        v1::RegisterResponse* response);
  absl::Status Save(const v1::SaveRequest& request, Deadline deadline, v1::SaveResponse* response);
  absl::Status Wait(const v1::WaitRequest& request, Deadline deadline, v1::SaveStatus* status);
  absl::Status Load(const v1::LoadRequest& request, Deadline deadline,
                    const std::function<void(const v1::LoadEvent&)>& on_event);
  absl::Status GetExtra(const v1::GetExtraRequest& request, Deadline deadline,
                        v1::GetExtraResponse* response);
  absl::Status Allocate(const v1::AllocateRequest& request, Deadline deadline, v1::AllocateResponse* response);
  absl::Status Restart(const v1::RestartRequest& request, Deadline deadline, v1::RestartResponse* response);
  absl::Status Free(const v1::FreeRequest& request, Deadline deadline);
  absl::Status List(const v1::ListRequest& request, Deadline deadline, v1::ListResponse* response);

  // Ends every call under way, and every later one, with CANCELLED.
  void Cancel();

 private:
  struct Rep;
  class Call;
  std::unique_ptr<Rep> rep_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_CHANNEL_H_
