// A daemon for the client's tests: a real handoff socket and gRPC server in a temporary directory, with
// scripted answers.
//
// It keeps no checkpoint and checks nothing. One session at a time: the newest handshake's pages and socket
// are current.

#ifndef KEEPSTEP_CLIENT_FAKE_DAEMON_H_
#define KEEPSTEP_CLIENT_FAKE_DAEMON_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "client/unique_fd.h"
#include "proto/handoff.h"
#include "proto/session_page.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

// What a handler answers with: OK, or a code and a reason.
struct FakeAnswer {
  int code = 0;
  std::string reason;
};

struct FakeScript {
  proto::Transfer transfer = proto::Transfer::kPull;  // unless the client wants the window
  uint64_t window_bytes = 1 << 20;
  bool maps_gpu_memory = true;
  std::string no_rescue;  // answer to a registration; empty: it rescues
  FakeAnswer refuse;  // of the handshake
  v1::Opened opened;
  std::function<FakeAnswer(const v1::OpenRequest&)> on_open;
  std::function<FakeAnswer(const v1::RegisterRequest&)> on_register;
  std::function<FakeAnswer(const v1::SaveRequest&, v1::SaveResponse*)> on_save;  // default: ACCEPTED
  std::function<void(const v1::SaveRequest&)>
      on_ask;                // by frame, before it is answered; must not call the daemon
  bool ignore_asks = false;  // by frame; else they are accepted, or refused when `on_save` is to be called
  std::function<FakeAnswer(const v1::WaitRequest&, v1::SaveStatus*)> on_wait;
  std::function<FakeAnswer(const v1::LoadRequest&, v1::LoadReport*)> on_load;
  std::function<FakeAnswer(const v1::RestartRequest&, v1::RestartResponse*)> on_restart;
};

class FakeDaemon {
 public:
  explicit FakeDaemon(FakeScript script);
  ~FakeDaemon();  // stops, removes the directory

  std::string address() const { return "unix://" + directory_ + "/" + proto::kGrpcSocketName; }
  std::string handoff_path() const { return directory_ + "/" + proto::kHandoffSocketName; }
  std::string job_directory() const { return directory_ + "/job"; }

  void Start();
  void Stop();  // closes every connection, as a daemon that dies does
  // Between Stop and Start.
  FakeScript& script() { return script_; }

  // Of the current session.
  proto::DaemonPage& page();
  proto::ClientPage& client_page();
  std::byte* window();
  proto::Hello hello();

  void Beat();
  void Release(uint32_t group, uint64_t number);
  void SetState(uint64_t number, v1::SaveState state);
  void SendCopy(const proto::Copy& head, const std::vector<proto::CopyEntry>& entries);

  // Descriptors of GPU memory that came over the current connection, by number.
  std::map<uint64_t, int> descriptors();

  // Blocks until a frame of `kind` arrives; other frames before it are dropped. Empty: the connection ended
  // first.
  std::vector<std::byte> AwaitFrame(proto::FrameKind kind);

 private:
  class Service;
  struct Server;
  struct Shared;
  void Accept(int listener);
  bool Welcome(int socket);
  void ReadFrames(int socket);
  void AnswerAsk(const std::vector<std::byte>& frame);  // mu_ is held
  void Keep(const std::vector<std::byte>& frame, std::vector<UniqueFd> fds);  // mu_ is held

  FakeScript script_;
  std::string directory_;
  std::unique_ptr<Server> server_;
  std::thread acceptor_;
  UniqueFd listener_;

  std::mutex mu_;
  std::condition_variable arrived_;
  std::shared_ptr<Shared> session_;            // guarded by mu_
  std::deque<std::vector<std::byte>> frames_;  // guarded by mu_
  std::map<uint64_t, UniqueFd> descriptors_;   // guarded by mu_
  bool stopping_ = false;                      // guarded by mu_
  bool ended_ = false;                         // guarded by mu_; the current session's connection
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_FAKE_DAEMON_H_
