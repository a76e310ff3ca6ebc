// A client of the daemon for its own tests, with nothing of libkeepstep in it: raw handoff frames and
// generated stubs.
//
// By window its copy thread does what a client's does, without checks.

#ifndef KEEPSTEP_DAEMON_TEST_CLIENT_H_
#define KEEPSTEP_DAEMON_TEST_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <array>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/handoff.h"
#include "proto/session_page.h"
#include "proto/sessions.grpc.pb.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// Connects to a SOCK_SEQPACKET socket; an invalid descriptor if nobody listens.
storage::UniqueFd ConnectTo(const std::string& path);

class TestClient {
 public:
  // `directory` empty: a session that only looks. An error is what Refused said.
  static absl::StatusOr<std::unique_ptr<TestClient>> Connect(const std::string& socket_directory,
                                                             const std::string& directory,
                                                             proto::Transfer want);
  ~TestClient();

  std::unique_ptr<grpc::ClientContext> Context() const;  // with the token, and a limit of 30 s
  v1::Sessions::Stub& stub() { return *stub_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  proto::Transfer transfer() const { return welcome_.transfer; }
  const proto::DaemonPage& daemon_page() const { return *daemon_page_; }
  proto::ClientPage& client_page() { return *client_page_; }
  const std::string& token() const { return token_; }
  int socket_fd() const { return socket_.get(); }
  int daemon_page_fd() const { return descriptors_[0].get(); }

  // Opens the stream; the first event. Keeps the stream open.
  absl::StatusOr<v1::Opened> Open(int32_t rank, int32_t world_size);
  // One F32 tensor "w" of `global` rows, of which `mine` starts at `first`.
  grpc::Status Register(uint64_t generation, std::vector<float>& mine, int64_t first, int64_t global);
  // Saves, seals once released, waits for COMMITTED.
  absl::StatusOr<v1::SaveStatus> SaveAndSeal(uint64_t number, int64_t step, uint64_t generation);
  absl::StatusOr<v1::LoadReport> Load(int64_t step, uint64_t generation);

 private:
  TestClient() = default;
  void CopyLoop();

  storage::UniqueFd socket_;
  std::array<uint8_t, proto::kNonceBytes> nonce_{};
  proto::Welcome welcome_;
  std::vector<storage::UniqueFd> descriptors_;
  const proto::DaemonPage* daemon_page_ = nullptr;
  proto::ClientPage* client_page_ = nullptr;
  std::byte* window_ = nullptr;
  std::string token_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> open_context_;
  std::unique_ptr<grpc::ClientReader<v1::SessionEvent>> open_stream_;
  std::thread copier_;
};

absl::Status FromGrpc(const grpc::Status& status);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_TEST_CLIENT_H_
