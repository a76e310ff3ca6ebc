// The gate in stream order, against the scripted daemon and the driver that the loader finds (tests/fake_cuda).

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "client/device_session_fixture.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

// A stream of its own, which the default one does not wait for.
class OwnStream {
 public:
  OwnStream() { EXPECT_CUDA(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING)); }
  ~OwnStream() { EXPECT_CUDA(CU(cuStreamDestroy)(stream_)); }
  CUstream get() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};

class StreamGateTest : public DeviceSessionTest {
 protected:
  // A block of zeros in group 0, and a save of it that the daemon has accepted.
  void StartSaved(bool host_memory_too = false, FakeScript script = {}) {
    Start(std::move(script));
    block_ = std::make_unique<Block>(4096);
    stream_ = std::make_unique<OwnStream>();
    ASSERT_CUDA(CU(cuMemsetD8)(block_->pointer(), 0, 4096));
    ASSERT_CUDA(CU(cuCtxSynchronize)());
    Declared declared;
    Add(&declared, "a", block_->pointer(), 4096);
    if (!host_memory_too) declared.gpu_groups = {0};
    ASSERT_TRUE(Register(declared).ok());
    Save();
  }

  void TearDown() override {
    client_.reset();
    stream_.reset();
    block_.reset();
    DeviceSessionTest::TearDown();
  }

  void Save() {
    uint64_t number = 0;
    v1::SaveRequest request;
    request.set_step(++step_);
    ASSERT_TRUE(client_->saves().Save(request, {}, After(kLongMs), &number).ok());
  }

  // An update, as an optimizer makes it: asks, and queues its work.
  void QueueUpdate(CUstream stream, unsigned char value) {
    ASSERT_TRUE(client_->stream_gates().BeforeUpdate(0, stream, After(kLongMs)).ok());
    ASSERT_CUDA(CU(cuMemsetD8Async)(block_->pointer(), value, 4096, stream));
  }

  unsigned char Value() {
    unsigned char value = 0xee;
    EXPECT_CUDA(CU(cuMemcpyDtoH)(&value, block_->pointer(), 1));
    return value;
  }

  int64_t step_ = 0;
  std::unique_ptr<Block> block_;
  std::unique_ptr<OwnStream> stream_;
};

TEST_F(StreamGateTest, TheStreamWaitsAndTheProgramDoesNot) {
  StartSaved();
  QueueUpdate(stream_->get(), 0x77);  // comes back while the gate is shut
  EXPECT_FALSE(client_->gate().IsOpen(0));
  EXPECT_EQ(CU(cuStreamQuery)(stream_->get()), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(Value(), 0) << "the update must not run before the copy is over";
  daemon_->Release(0, 1);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream_->get()));
  EXPECT_EQ(Value(), 0x77);
}

// The second save's copy comes after the queued update, so that must not wait for it.
TEST_F(StreamGateTest, ALaterSaveDoesNotKeepTheStreamWaiting) {
  StartSaved();
  QueueUpdate(stream_->get(), 0x77);
  Save();
  daemon_->Release(0, 1);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream_->get()));
  EXPECT_EQ(Value(), 0x77);
  EXPECT_FALSE(client_->gate().IsOpen(0));
}

// Whatever opens the gate on the host opens it for the stream: a GPU must not stand for a daemon that is gone.
// By the window a copy comes after every mark, a later save's too: none may stand behind the gate that it opens.
TEST_F(StreamGateTest, ByTheWindowTheHostWaits) {
  StartSaved(/*host_memory_too=*/false, {.maps_gpu_memory = false});
  EXPECT_EQ(BlameOf(client_->stream_gates().BeforeUpdate(0, stream_->get(), After(0))).reason, "GATE_CLOSED");
  EXPECT_CUDA(CU(cuStreamQuery)(stream_->get()));
}

TEST_F(StreamGateTest, ADaemonThatDiesLeavesNoStreamWaiting) {
  StartSaved();
  QueueUpdate(stream_->get(), 0x77);
  client_->session().Close();
  daemon_->Stop();
  client_.reset();  // the last that opens it
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream_->get()));
  EXPECT_EQ(Value(), 0x77);
}

// The program runs ahead of the GPU: a wait that the stream has yet to come to must find its word when the client is gone.
TEST_F(StreamGateTest, AStreamMayComeToItsWaitAfterTheClientIsClosed) {
  StartSaved();
  HeldStream busy;
  QueueUpdate(busy.stream(), 0x77);
  daemon_->Release(0, 1);
  EXPECT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
  client_.reset();
  busy.Release();
  EXPECT_CUDA(CU(cuStreamSynchronize)(busy.stream()));
  EXPECT_EQ(Value(), 0x77);
}

TEST_F(StreamGateTest, AGroupWithHostMemoryWaitsOnTheHost) {
  StartSaved(/*host_memory_too=*/true);
  EXPECT_EQ(BlameOf(client_->stream_gates().BeforeUpdate(0, stream_->get(), After(0))).reason, "GATE_CLOSED");
  daemon_->Release(0, 1);
  EXPECT_TRUE(client_->stream_gates().BeforeUpdate(0, stream_->get(), After(kLongMs)).ok());
}

}  // namespace
}  // namespace keepstep::client
