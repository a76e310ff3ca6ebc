// Each call of the driver that a worker makes fails in turn, on the fake driver: with an error that CUDA survives, with
// one that it does not, and by never returning.
//
// The calls are read out of the sources, and each use of each is hit: a fault is moved on from the first use to the next
// until a whole session runs without meeting it. What must hold each time:
//   1. At most one step of the session fails: by a reason of docs/errors.md, naming the GPU, and the tensor if it was
//      being copied.
//   2. Memory that was taken back is mapped by nobody, whatever happened.
//   3. The next session of the same daemon is whole.

#include <gmock/gmock.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "daemon/device/test_fixture.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr int kSurvivable = CUDA_ERROR_INVALID_VALUE, kFatal = CUDA_ERROR_ILLEGAL_ADDRESS;
// Calls that a session makes only after another has failed, or while a copy takes long: they have tests of their own.
const std::set<std::string> kApart = {"cuStreamSynchronize", "cuStreamQuery"};
// Calls of the sources' other function, which says what driver there is and makes nothing with it.
const std::set<std::string> kElsewhere = {"cuDriverGetVersion"};

// What the worker calls, by cuda.h's names.
std::set<std::string> CallsOfTheWorker() {
  std::set<std::string> calls;
  for (const char* path : {"daemon/device/device_context.cc", "daemon/device/worker.cc"}) {
    std::ifstream file(path);
    EXPECT_TRUE(file.is_open()) << path;
    std::stringstream text;
    text << file.rdbuf();
    const std::string source = text.str();
    const std::regex call("(?:cu_\\.|driver->)(cu[A-Z]\\w+)\\(");
    for (std::sregex_iterator each(source.begin(), source.end(), call), end; each != end; ++each)
      calls.insert((*each)[1]);
  }
  for (const std::string& call : kElsewhere) EXPECT_EQ(calls.erase(call), 1u) << call;
  return calls;
}

class DriverFaultsTest : public DeviceTest {
 protected:
  enum class Step { kOpen, kRead, kWrite, kAllocate, kNone };
  struct Failure {
    Step step = Step::kNone;
    absl::Status status;
  };

  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    block_ = trainer_->Allocate(kMiB, 1);
    std::tie(piece_, descriptor_) = trainer_->AllocatePiece(kPieceBytes, 2);
  }

  // Whether the fault, one of `:once`, was met (tests/fake_cuda/counters.h).
  bool Met() {
    std::ifstream file(counters_, std::ios::binary);
    file.seekg(8 + 16 * 16);
    return file.get() == 1;
  }

  // Memory of both kinds is registered, read after what a stream has still to write, written, and taken back; memory of
  // the daemon's own is made.
  Failure Session() {
    Failure failure = Work();
    session_->CloseAllBut(nullptr);
    EXPECT_EQ(Mappings(), 0);
    return failure;
  }

  // A fault for the next hub's workers: the counters begin anew, and with them what has been met.
  void StartWith(const std::string& faults, DeviceHubSpec limits = {}) {
    Stop();
    std::filesystem::remove(counters_);
    Start(faults, limits);
    given_ = 0;
  }

  void ExpectNamed(const Failure& failure, const std::set<std::string>& while_opening,
                   const std::set<std::string>& while_copying) {
    if (failure.step == Step::kNone) return;
    const std::string message(failure.status.message()), reason = ReasonOf(failure.status);
    EXPECT_THAT(message, HasSubstr("GPU-"));
    if (failure.step == Step::kOpen) {
      EXPECT_TRUE(while_opening.contains(reason)) << failure.status;
      return;
    }
    if (failure.step == Step::kAllocate) {  // of a GPU, for no tensor; what cannot be unmapped goes with the worker
      EXPECT_TRUE(while_copying.contains(reason) || reason == "DEVICE_LOST") << failure.status;
      return;
    }
    EXPECT_TRUE(while_copying.contains(reason)) << failure.status;
    EXPECT_THAT(message, ::testing::AnyOf(HasSubstr("layer.weight"), HasSubstr("cuIpcOpenEventHandle"),
                                          HasSubstr("cuEventQuery"), HasSubstr("no answer")));
  }

 private:
  Failure Work() {
    DeclaredMemory piece = piece_;
    piece.descriptor = ++given_;
    std::vector<storage::UniqueFd> descriptors;
    descriptors.emplace_back(dup(descriptor_.get()));
    EXPECT_TRUE(session_->Take(piece.descriptor, std::move(descriptors)).ok());
    std::vector<DeclaredMemory> declared = {block_, piece};
    if (piece.address < block_.address) std::swap(declared[0], declared[1]);
    const auto table = session_->Open(declared);
    if (!table.ok()) return {Step::kOpen, table.status()};
    trainer_->Fill(block_, ++seed_);
    const Fence fence = trainer_->QueueFillBehindGate(block_, ++seed_);
    trainer_->Release();
    const auto port = Port(*table, {fence});
    for (const DeclaredMemory* memory : {&block_, &piece_}) {
      std::vector<uint8_t> bytes;
      if (absl::Status status = Read(*port, *memory, 0, 65536, &bytes); !status.ok()) return {Step::kRead, status};
      const uint32_t seed = memory == &block_ ? seed_ : 2;
      for (size_t i = 0; i < bytes.size(); i += 97) {
        const bool written = memory == &piece_ && i < 100;  // by an earlier session
        if (!written && bytes[i] != PatternByte(seed, i)) {
          ADD_FAILURE() << "byte " << i << " of " << (memory == &block_ ? "the block" : "the piece");
          return {};
        }
      }
    }
    auto buffer = *pool_->Acquire(cancel_);
    std::fill_n(buffer.data(), 100, std::byte{0x5a});
    const auto status = port->Write({{piece_.address, buffer.data(), 100}}, cancel_);
    if (!status.ok()) return {Step::kWrite, status};
    EXPECT_EQ(trainer_->Read(piece_)[99], 0x5a);
    const auto worker = hub_->Worker(block_.gpu);
    const auto made = worker.ok() ? (*worker)->Allocate(kPieceBytes) : worker.status();
    if (!made.ok()) return {Step::kAllocate, made.status()};
    return {};
  }

  DeclaredMemory block_, piece_;
  storage::UniqueFd descriptor_;
  uint64_t given_ = 0;  // descriptors of the present session
  uint32_t seed_ = 10;
};

// Whatever CUDA survives costs a step, or nothing.
TEST_F(DriverFaultsTest, EachUseOfEachCallIsRefusedOnce) {
  for (const std::string& call : CallsOfTheWorker()) {
    if (kApart.contains(call)) continue;
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(call + ", use " + std::to_string(nth));
      StartWith(call + ":" + std::to_string(nth) + ":" + std::to_string(kSurvivable) + ":once");
      const Failure failure = Session();
      ExpectNamed(failure, {"NO_GPU", "BAD_HANDLE"}, {"DEVICE_ERROR"});
      if (!Met()) {
        EXPECT_GT(nth, 1) << "no step of the session makes this call";
        EXPECT_EQ(failure.step, Step::kNone);
        break;
      }
      EXPECT_EQ(Session().step, Step::kNone);
      if (HasFailure()) return;
    }
  }
}

// After these CUDA wants the process replaced.
TEST_F(DriverFaultsTest, EachUseOfEachCallFailsForGood) {
  for (const std::string& call : CallsOfTheWorker()) {
    if (kApart.contains(call)) continue;
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(call + ", use " + std::to_string(nth));
      StartWith(call + ":" + std::to_string(nth) + ":" + std::to_string(kFatal) + ":once");
      const Failure failure = Session();
      ExpectNamed(failure, {"NO_GPU", "DEVICE_LOST"}, {"DEVICE_LOST"});
      if (!Met()) break;
      EXPECT_EQ(Session().step, Step::kNone);
      if (HasFailure()) return;
    }
  }
}

// The limits are as long as a loaded machine may take for what does not hang.
TEST_F(DriverFaultsTest, EachCallHangsOnce) {
  for (const std::string& call : CallsOfTheWorker()) {
    if (kApart.contains(call)) continue;
    SCOPED_TRACE(call);
    StartWith(call + ":1:hang:once", {.start_limit = 2s, .stall = 1s});
    ExpectNamed(Session(), {"NO_GPU", "DEVICE_STUCK"}, {"DEVICE_STUCK"});
    EXPECT_TRUE(Met());
    EXPECT_EQ(Session().step, Step::kNone);
    if (HasFailure()) return;
  }
}

// Memory that the driver does not give back would keep a dead trainer's GPU memory: the process that has it mapped ends.
TEST_F(DriverFaultsTest, AWorkerThatCannotUnmapIsReplaced) {
  // The first use of those of VMM memory is that of new memory, which is not the trainer's.
  for (const char* call : {"cuIpcCloseMemHandle:1", "cuMemUnmap:2", "cuMemAddressFree:2", "cuMemRelease:2"}) {
    SCOPED_TRACE(call);
    StartWith(std::string(call) + ":" + std::to_string(kSurvivable) + ":once");
    EXPECT_EQ(Session().step, Step::kNone) << "what was copied before is whole";
    EXPECT_TRUE(hub_->workers().empty());
    EXPECT_EQ(Session().step, Step::kNone);
    EXPECT_EQ(hub_->workers().size(), 1u);
  }
}

// A copy that is broken off half queued must not land in a buffer that is somebody else's by then.
TEST_F(DriverFaultsTest, ACopyThatCannotBeWaitedForCostsTheWorker) {
  StartWith("cuLaunchHostFunc:1:1:once;cuStreamSynchronize:1:1:once");
  ExpectNamed(Session(), {}, {"DEVICE_LOST"});
  EXPECT_TRUE(hub_->workers().empty());
  EXPECT_EQ(Session().step, Step::kNone);
}

TEST_F(DriverFaultsTest, ADriverThatHangsWhileACopyIsBrokenOffCostsTheWorker) {
  StartWith("cuLaunchHostFunc:1:1:once;cuStreamSynchronize:1:hang:once", {.start_limit = 60s, .stall = 1s});
  ExpectNamed(Session(), {}, {"DEVICE_STUCK"});
  EXPECT_EQ(Session().step, Step::kNone);
}

// Of an error that a copy meets after it was queued, CUDA tells whoever asks the stream, and nobody else.
TEST_F(DriverFaultsTest, AnErrorOfAQueuedCopyIsLookedFor) {
  setenv("KEEPSTEP_FAKE_CUDA_D2H_GBPS", "0.0001", 1);  // 64 KiB take longer than it takes to look
  for (const int code : {kFatal, kSurvivable}) {
    StartWith("cuStreamQuery:1:" + std::to_string(code) + ":once");
    ExpectNamed(Session(), {}, {"DEVICE_LOST"});
    EXPECT_TRUE(Met());
  }
  unsetenv("KEEPSTEP_FAKE_CUDA_D2H_GBPS");
  Stop();
  Start();
  EXPECT_EQ(Session().step, Step::kNone);
}

}  // namespace
}  // namespace keepstep::daemon
