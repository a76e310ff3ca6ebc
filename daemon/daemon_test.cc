// The whole daemon over its real sockets: two ranks in this process save and load, by pull and by window;
// errors as callers see them.

#include "daemon/daemon.h"

#include <grpcpp/grpcpp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>
#include <future>
#include <numeric>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/test_client.h"
#include "gtest/gtest.h"
#include "proto/checkpoints.grpc.pb.h"
#include "proto/node.grpc.pb.h"
#include "proto/rpc_status.pb.h"

namespace keepstep::daemon {
namespace {

class DaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    char home[] = "/tmp/ksdXXXXXX";  // short: a socket's path has 108 bytes
    home_ = mkdtemp(home);
    std::filesystem::create_directories(home_ + "/root/job");
    Start();
  }
  void TearDown() override {
    daemon_ = nullptr;
    std::filesystem::remove_all(home_);
  }

  DaemonSpec Spec() const {
    DaemonSpec spec{
        .socket_directory = home_, .state_directory = home_ + "/state", .roots = {home_ + "/root"}};
    spec.pool_bytes = 64 << 20;
    return spec;
  }
  void Start() {
    auto daemon = Daemon::Start(Spec());
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  std::string Job() const { return home_ + "/root/job"; }

  std::unique_ptr<TestClient> Client(const std::string& directory,
                                     proto::Transfer want = proto::Transfer::kAuto) {
    auto client = TestClient::Connect(home_, directory, want);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  // Within a while: a session ends, and jobs settle, a moment after they are told to.
  bool BecomesUnused() const {
    for (int look = 0; look < 1000 && daemon_->in_use(); ++look)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return !daemon_->in_use();
  }

  std::string home_;
  std::unique_ptr<Daemon> daemon_;
};

// Begins to write tensor "t", six bytes, as step 3 of the job "imported".
v1::BeginResponse BeginImport(v1::Checkpoints::Stub& stub) {
  v1::BeginRequest begin;
  begin.set_job("imported");
  begin.set_step(3);
  v1::Shard* shard = begin.add_shards();
  shard->mutable_meta()->set_fqn("t");
  shard->mutable_meta()->set_dtype("U8");
  shard->mutable_meta()->add_shape(6);
  v1::Box* box = shard->mutable_boxes()->add_boxes()->mutable_box();
  box->add_origin(0);
  box->add_shape(6);
  v1::BeginResponse begun;
  grpc::ClientContext context;
  const grpc::Status status = stub.Begin(&context, begin, &begun);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return begun;
}

std::vector<float> Ramp(size_t count, float first) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

constexpr int64_t kRows = 1000;

// Ranks 0 and 1 with the halves of one tensor save `step`; both must hear COMMITTED.
void SaveHalves(TestClient& a, TestClient& b, std::vector<float>& low, std::vector<float>& high,
                int64_t step) {
  ASSERT_TRUE(a.Register(1, low, 0, kRows).ok());
  ASSERT_TRUE(b.Register(1, high, static_cast<int64_t>(low.size()), kRows).ok());
  auto other = std::async(std::launch::async, [&] { return b.SaveAndSeal(1, step, 1); });
  auto one = a.SaveAndSeal(1, step, 1);
  auto two = other.get();
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(two.ok()) << two.status();
  ASSERT_EQ(one->state(), v1::COMMITTED) << one->failure().message();
  ASSERT_EQ(two->state(), v1::COMMITTED) << two->failure().message();
}

void OpenBoth(TestClient& a, TestClient& b) {
  auto other = std::async(std::launch::async, [&] { return b.Open(1, 2); });
  auto one = a.Open(0, 2);
  auto two = other.get();
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(two.ok()) << two.status();
}

class Transfers : public DaemonTest, public testing::WithParamInterface<proto::Transfer> {};

TEST_P(Transfers, TwoRanksSaveAndAnotherLayoutLoads) {
  auto a = Client(Job(), GetParam()), b = Client(Job(), GetParam());
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->transfer(), GetParam());
  OpenBoth(*a, *b);
  std::vector<float> low = Ramp(500, 0), high = Ramp(500, 500);
  SaveHalves(*a, *b, low, high, 10);
  if (HasFatalFailure()) return;

  auto reader = Client(Job(), GetParam());  // a new world of one rank takes the job over
  ASSERT_TRUE(reader->Open(0, 1).ok());
  std::vector<float> whole(kRows, -1);
  ASSERT_TRUE(reader->Register(1, whole, 0, kRows).ok());
  auto report = reader->Load(10, 1);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->found());
  EXPECT_EQ(report->delivered_bytes(), kRows * 4);
  EXPECT_EQ(whole, Ramp(kRows, 0));

  v1::GetExtraRequest request;
  request.set_step(10);
  request.set_rank(1);
  v1::GetExtraResponse extras;
  ASSERT_TRUE(reader->stub().GetExtra(reader->Context().get(), request, &extras).ok());
  ASSERT_EQ(extras.extras_size(), 1);
  EXPECT_EQ(extras.extras(0).items(0), "state of step 10");
}

INSTANTIATE_TEST_SUITE_P(Both, Transfers, testing::Values(proto::Transfer::kPull, proto::Transfer::kWindow),
                         [](const auto& info) {
                           return info.param == proto::Transfer::kPull ? "Pull" : "Window";
                         });

// A committed step must outlive the daemon that wrote it.
TEST_F(DaemonTest, RestartedDaemonStillHasTheStep) {
  {
    auto a = Client(Job()), b = Client(Job());
    OpenBoth(*a, *b);
    std::vector<float> low = Ramp(500, 0), high = Ramp(500, 500);
    SaveHalves(*a, *b, low, high, 10);
  }
  daemon_ = nullptr;
  Start();
  auto looker = Client("");
  auto checkpoints = v1::Checkpoints::NewStub(looker->channel());
  v1::GetRequest request;
  request.mutable_name()->set_job("job");
  request.mutable_name()->set_latest(true);
  v1::CheckpointInfo info;
  const grpc::Status status = checkpoints->Get(looker->Context().get(), request, &info);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(info.decision().step(), 10);
}

TEST_F(DaemonTest, SecondDaemonOnTheSameStateIsRefused) {
  EXPECT_EQ(Daemon::Start(Spec()).status().code(), absl::StatusCode::kFailedPrecondition);
}

// Anyone may connect to the socket: garbage must cost only its own connection.
TEST_F(DaemonTest, GarbageFramesAreDroppedAndTheDaemonServes) {
  proto::Hello hello;
  hello.has_directory = 1;  // and no descriptor with it
  std::vector<std::string> frames = {"x", std::string(5000, 'y'), std::string(sizeof(proto::Hello), 'z'),
                                     std::string(reinterpret_cast<const char*>(&hello), sizeof(hello))};
  for (const std::string& frame : frames) {
    auto socket = ConnectTo(home_ + "/" + proto::kHandoffSocketName);
    ASSERT_TRUE(socket.valid());
    ASSERT_GT(send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL), 0);
    std::string answer(sizeof(proto::Refused) + 1, 0);
    const ssize_t got = recv(socket.get(), answer.data(), answer.size(), 0);
    EXPECT_TRUE(got == sizeof(proto::Refused) || got == 0) << got;
  }
  auto joined = Client(Job());
  ASSERT_TRUE(joined != nullptr);
  ASSERT_TRUE(joined->Open(0, 1).ok());
  std::vector<float> all = Ramp(kRows, 0);
  EXPECT_TRUE(joined->Register(1, all, 0, kRows).ok());
}

// Where the kernel forbids reading a trainer's memory, nobody has to configure anything: the window takes over.
TEST_F(DaemonTest, AClientWhoseMemoryCannotBeReadGetsTheWindow) {
  union {
    proto::Welcome welcome;
    proto::Refused refused;
  } answer{.welcome = {}};
  const auto shake = [&](proto::Transfer want) {
    proto::Hello hello;
    hello.nonce_address = 0;  // nothing is mapped there, so the probe fails as it does without permission
    hello.want = want;
    auto socket = ConnectTo(home_ + "/" + proto::kHandoffSocketName);
    EXPECT_EQ(send(socket.get(), &hello, sizeof(hello), MSG_NOSIGNAL), ssize_t{sizeof(hello)});
    return recv(socket.get(), &answer, sizeof(answer), 0);
  };
  ASSERT_EQ(shake(proto::Transfer::kAuto), ssize_t{sizeof(proto::Welcome)});
  EXPECT_EQ(answer.welcome.header.kind, proto::FrameKind::kWelcome);
  EXPECT_EQ(answer.welcome.transfer, proto::Transfer::kWindow);
  EXPECT_GT(answer.welcome.window_bytes, 0u);
  ASSERT_EQ(shake(proto::Transfer::kPull), ssize_t{sizeof(proto::Refused)});
  EXPECT_STREQ(answer.refused.reason, "PULL_REFUSED");
}

TEST_F(DaemonTest, DaemonPageCannotBeWrittenByTheClient) {
  auto client = Client(Job());
  EXPECT_EQ(mmap(nullptr, proto::kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->daemon_page_fd(), 0),
            MAP_FAILED);
  EXPECT_NE(ftruncate(client->daemon_page_fd(), 0), 0);
}

TEST_F(DaemonTest, ErrorsCarryAReason) {
  auto client = Client(Job());
  v1::SaveRequest request;
  request.set_number(1);
  v1::SaveResponse response;
  const grpc::Status status = client->stub().Save(client->Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "keepstep");
  EXPECT_EQ(info.reason(), "NOT_OPEN");

  grpc::ClientContext stranger;
  stranger.AddMetadata(proto::kTokenMetadataKey, std::string(32, '0'));
  EXPECT_EQ(client->stub().Save(&stranger, request, &response).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_FALSE(client->Open(2, 2).ok());
}

// A layout with a hole must not commit, and the gate must open all the same.
TEST_F(DaemonTest, HolesAreRefusedAtSaveAndTheGateOpens) {
  auto client = Client(Job());
  ASSERT_TRUE(client->Open(0, 1).ok());
  std::vector<float> half = Ramp(500, 0);
  ASSERT_TRUE(client->Register(1, half, 0, kRows).ok());
  auto status = client->SaveAndSeal(1, 1, 1);
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->state(), v1::FAILED);
  EXPECT_EQ(status->failure().code(), static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_GE(client->daemon_page().released[0].load(), 1u);
}

TEST_F(DaemonTest, CheckpointsAreWrittenAndReadWithGrpcAlone) {
  auto channel = grpc::CreateChannel(daemon_->address(), grpc::InsecureChannelCredentials());
  auto stub = v1::Checkpoints::NewStub(channel);
  const v1::BeginResponse begun = BeginImport(*stub);
  v1::CommitRequest commit;
  commit.set_attempt(begun.attempt());
  v1::CheckpointInfo info;
  grpc::ClientContext early_context;
  EXPECT_EQ(stub->Commit(&early_context, commit, &info).error_code(), grpc::StatusCode::FAILED_PRECONDITION);

  grpc::ClientContext write_context;
  v1::WriteResponse written;
  auto writer = stub->Write(&write_context, &written);
  v1::WriteChunk chunk;
  chunk.set_attempt(begun.attempt());
  chunk.set_fqn("t");
  chunk.set_data("abc");
  writer->Write(chunk);
  chunk.set_offset_bytes(3);
  chunk.set_data("def");
  writer->Write(chunk);
  writer->WritesDone();
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_EQ(written.received_bytes(), 6);
  grpc::ClientContext commit_context;
  const grpc::Status committed = stub->Commit(&commit_context, commit, &info);
  ASSERT_TRUE(committed.ok()) << committed.error_message();

  v1::ReadRequest read;
  read.mutable_name()->set_job("imported");
  read.mutable_name()->set_latest(true);
  read.set_fqn("t");
  grpc::ClientContext read_context;
  auto reader = stub->Read(&read_context, read);
  std::string bytes;
  v1::ReadChunk piece;
  while (reader->Read(&piece)) bytes += piece.data();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, "abcdef");
}

// What a claim leaves that could not be written is nobody's epoch.
TEST_F(DaemonTest, WhatCallsAloneWriteIsOfTheNewestEpochThatIsClaimed) {
  auto stub =
      v1::Checkpoints::NewStub(grpc::CreateChannel(daemon_->address(), grpc::InsecureChannelCredentials()));
  EXPECT_TRUE(absl::StartsWith(BeginImport(*stub).attempt(), "e1-"));
  ASSERT_TRUE(std::filesystem::create_directories(home_ + "/root/imported/epochs/7"));
  EXPECT_TRUE(absl::StartsWith(BeginImport(*stub).attempt(), "e1-"));
}

// Who is there stays; who comes meets the new numbers.
TEST_F(DaemonTest, ReconfiguredLimitsHoldForWhatComes) {
  auto first = Client(Job());
  ASSERT_TRUE(first != nullptr && first->Open(0, 1).ok());
  DaemonSpec fewer = Spec();
  fewer.max_sessions = 1;
  fewer.registrations_bytes = 1;
  fewer.job_quota_bytes = 1;
  daemon_->Reconfigure(fewer);
  const auto refused = TestClient::Connect(home_, Job(), proto::Transfer::kAuto);
  EXPECT_TRUE(absl::StrContains(refused.status().message(), "TOO_MANY_SESSIONS")) << refused.status();
  std::vector<float> whole = Ramp(kRows, 0);
  EXPECT_EQ(first->Register(1, whole, 0, kRows).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);

  DaemonSpec quota = Spec();
  quota.job_quota_bytes = 1;
  daemon_->Reconfigure(quota);
  ASSERT_TRUE(first->Register(1, whole, 0, kRows).ok());
  auto beyond = first->SaveAndSeal(1, 10, 1);
  ASSERT_TRUE(beyond.ok()) << beyond.status();
  EXPECT_EQ(beyond->failure().reason(), "QUOTA");

  daemon_->Reconfigure(Spec());
  EXPECT_NE(Client(Job()), nullptr);
  auto saved = first->SaveAndSeal(2, 20, 1);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->state(), v1::COMMITTED) << saved->failure().message();
}

TEST_F(DaemonTest, IsInUseWhileAClientIsConnected) {
  EXPECT_TRUE(BecomesUnused()) << "nobody has come yet";
  auto looks = Client("");
  EXPECT_TRUE(daemon_->in_use());
  auto trains = Client(Job());
  ASSERT_TRUE(trains->Open(0, 1).ok());
  looks = nullptr;
  EXPECT_TRUE(daemon_->in_use());
}

TEST_F(DaemonTest, IsInUseWhileACheckpointIsWrittenByCallsAlone) {
  ASSERT_TRUE(BecomesUnused());
  auto stub =
      v1::Checkpoints::NewStub(grpc::CreateChannel(daemon_->address(), grpc::InsecureChannelCredentials()));
  const v1::BeginResponse begun = BeginImport(*stub);
  EXPECT_TRUE(daemon_->in_use()) << "though nobody has a session";
  v1::AbortRequest abort;
  abort.set_attempt(begun.attempt());
  v1::AbortResponse aborted;
  grpc::ClientContext abort_context;
  ASSERT_TRUE(stub->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_TRUE(BecomesUnused());
}

TEST_F(DaemonTest, DrainRefusesNewSessions) {
  EXPECT_EQ(daemon_->Drain(std::chrono::seconds(10)), 0);
  auto late = TestClient::Connect(home_, Job(), proto::Transfer::kAuto);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace keepstep::daemon
