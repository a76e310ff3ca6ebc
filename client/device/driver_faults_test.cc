// Each call of the driver that the client makes fails in turn, on the fake driver, in a trainer's process of its own.
//
// The calls are read out of the sources, and each use of each is hit: a fault is moved on from the first use to the next
// until a whole round runs without meeting it. A round does with GPU memory what a session does: finds it, maps the
// daemon's for reading, exports it, marks a save, queues a wait for its gate, announces an update, takes samples, copies
// by the window, lets the daemon's be written, unmaps it, closes. What must hold each time:
//   1. At most one step fails, by a reason of docs/errors.md, naming the tensor, the GPU or what was done with it.
//   2. What is said to be copied is, and the thread's context is what it was.
//   3. After an error that CUDA survives, the next round is whole.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "client/device/devices.h"
#include "client/device/test_memory.h"
#include "client/failure.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::client {
namespace {

using fake_cuda::Channel;
using fake_cuda::Peer;

constexpr int kSurvivable = CUDA_ERROR_INVALID_VALUE, kFatal = CUDA_ERROR_ILLEGAL_ADDRESS;
constexpr char kFaults[] = "KEEPSTEP_FAKE_CUDA_FAULTS", kCounters[] = "KEEPSTEP_FAKE_CUDA_COUNTERS";
constexpr size_t kBytes = 8192, kPieceBytes = size_t{2} << 20;

// What a round came to. `step` is empty where all went well.
struct Outcome {
  char step[32] = "", reason[32] = "", message[256] = "";
};

Outcome Failed(const char* step, const absl::Status& status) {
  Outcome outcome;
  std::strncpy(outcome.step, step, sizeof(outcome.step) - 1);
  std::strncpy(outcome.reason, BlameOf(status).reason.c_str(), sizeof(outcome.reason) - 1);
  std::strncpy(outcome.message, std::string(status.message()).c_str(), sizeof(outcome.message) - 1);
  return outcome;
}

// The fault hit what the test itself does: there is nothing to see.
#define OWN(call) \
  if (CU call != CUDA_SUCCESS) std::_Exit(2)

constexpr CUmemAllocationProp kExportable{.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                          .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                          .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};

// A descriptor of memory that nothing else holds, as a daemon sends it.
int OwnedByDaemon() {
  CUmemGenericAllocationHandle handle = 0;
  int fd = -1;
  OWN((cuMemCreate)(&handle, kPieceBytes, &kExportable, 0));
  OWN((cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  OWN((cuMemRelease)(handle));
  return fd;
}

CUdeviceptr PieceOfSegment() {
  const CUmemAccessDesc access{.location = kExportable.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr pointer = 0;
  OWN((cuMemAddressReserve)(&pointer, kPieceBytes, 0, 0, 0));
  OWN((cuMemCreate)(&handle, kPieceBytes, &kExportable, 0));
  OWN((cuMemMap)(pointer, kPieceBytes, 0, handle, 0));
  OWN((cuMemSetAccess)(pointer, kPieceBytes, &access, 1));
  OWN((cuMemRelease)(handle));
  return pointer;
}

struct Memory {
  CUdeviceptr block = 0, piece = 0, pooled = 0;
  CUstream stream = nullptr;
  int owned = -1;
};

Memory MakeMemory() {
  Memory memory;
  CUcontext context = nullptr;
  if (CU(cuInit)(0) != CUDA_SUCCESS) std::_Exit(2);
  OWN((cuDevicePrimaryCtxRetain)(&context, 0));
  OWN((cuCtxSetCurrent)(context));
  OWN((cuMemAlloc)(&memory.block, kBytes));
  OWN((cuStreamCreate)(&memory.stream, CU_STREAM_NON_BLOCKING));
  OWN((cuMemAllocAsync)(&memory.pooled, kBytes, memory.stream));
  memory.piece = PieceOfSegment();
  memory.owned = OwnedByDaemon();
  OWN((cuMemsetD8Async)(memory.pooled, 0x5a, kBytes, memory.stream));
  OWN((cuStreamSynchronize)(memory.stream));
  return memory;
}

Outcome Copies(Devices& devices, const Memory& memory, const std::vector<Allocation>& found) {
  static std::byte window[2 * kBytes];
  std::memset(window, 0, sizeof(window));
  const proto::CopyEntry out{.address = memory.pooled, .size_bytes = kBytes, .window_offset_bytes = 100};
  const int copied = devices.Copy({&out, 1}, found, false, window, sizeof(window));
  REQUIRE(copied == 0 || copied == EIO);
  if (copied != 0) {
    devices.ForgetWindow();
    return Failed("copy", absl::InternalError("copying GPU memory"));
  }
  REQUIRE(window[100] == std::byte{0x5a} && window[100 + kBytes - 1] == std::byte{0x5a});
  const int back = devices.Copy({&out, 1}, found, true, window, sizeof(window));
  REQUIRE(back == 0 || back == EIO);
  devices.ForgetWindow();
  return back == 0 ? Outcome() : Failed("copy back", absl::InternalError("copying GPU memory"));
}

// Of the daemon's memory too, which may be read all the time.
Outcome Samples(Devices& devices, const Memory& memory, uint64_t owned, const std::vector<Allocation>& found) {
  const DeviceSample samples[] = {{"c.weight", memory.pooled + 100, kDeviceSampleBytes},
                                  {"d.weight", owned + 100, kDeviceSampleBytes}};
  for (const bool after_marks : {true, false}) {
    std::byte taken[2 * kDeviceSampleBytes] = {};
    if (absl::Status read = devices.ReadSamples(samples, found, after_marks, taken); !read.ok())
      return Failed("sample", read);
    REQUIRE(taken[0] == std::byte{0x5a} && taken[kDeviceSampleBytes - 1] == std::byte{0x5a});
  }
  return {};
}

Outcome LetGo(Devices& devices, const std::vector<Allocation>& found, uint64_t owned) {
  if (absl::Status allowed = MakeOwnedWritable(devices.id()); !allowed.ok()) return Failed("allow", allowed);
  static std::byte window[kBytes];
  const proto::CopyEntry in{.address = owned, .size_bytes = kBytes};
  const int copied = devices.Copy({&in, 1}, found, true, window, sizeof(window));
  REQUIRE(copied == 0 || copied == EIO);
  devices.ForgetWindow();
  if (copied != 0) return Failed("copy back", absl::InternalError("copying GPU memory"));
  const auto unmapped = UnmapOwned(owned);
  if (!unmapped.ok()) return Failed("unmap", unmapped.status());
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  REQUIRE(CU(cuMemGetAddressRange)(&base, &size_bytes, owned) != CUDA_SUCCESS);  // it is
  return {};
}

Outcome Round(const Memory& memory, uint64_t number) {
  Devices devices;
  std::vector<DeviceRange> ranges{
      {memory.block, kBytes, "a.weight"}, {memory.piece, kBytes, "b.weight"}, {memory.pooled, kBytes, "c.weight"}};
  auto found = devices.Find(ranges);
  if (!found.ok()) return Failed("find", found.status());
  if (const auto gpu = devices.GpuOf(0); !gpu.ok()) return Failed("gpu", gpu.status());
  const OwnedPiece kept{.device = 0, .size_bytes = kPieceBytes, .writable = false,
                        .owned = {.client = devices.id(), .daemon_pid = getpid(), .ordinal = 1}};
  const auto owned = devices.MapOwned(kept, UniqueFd(dup(memory.owned)));
  if (!owned.ok()) return Failed("map", owned.status());
  ranges.push_back({*owned, kBytes, "d.weight"});
  found = devices.Find(ranges);
  if (!found.ok()) return Failed("find", found.status());
  std::vector<const Allocation*> pieces;
  for (const Allocation& each : *found) {
    if (each.path == DevicePath::kVmm) pieces.push_back(&each);
  }
  if (auto descriptors = devices.Export(pieces); !descriptors.ok()) return Failed("export", descriptors.status());
  v1::SaveRequest request;
  request.set_number(number);
  void* const streams[] = {memory.stream};
  if (absl::Status marked = devices.Mark(*found, streams, true, &request); !marked.ok())
    return Failed("mark", marked);
  const auto followed = devices.FollowGate(memory.stream, 0, number);
  devices.RaiseGate(0, number);
  if (!followed.ok()) return Failed("gate", followed.status());
  struct alignas(proto::kPageBytes) Page {
    proto::FlightWords words;
  };
  static Page pages[2];  // one a round: what was queued may yet be written
  proto::FlightWords* const words = &pages[number % 2].words;
  const absl::Status announced = devices.WriteFlightWord(memory.stream, 0, words, 0, 7);
  if (!announced.ok()) return Failed("announce", announced);
  if (Outcome samples = Samples(devices, memory, *owned, *found); samples.step[0] != '\0') return samples;
  if (Outcome copies = Copies(devices, memory, *found); copies.step[0] != '\0') return copies;
  if (absl::Status waited = devices.Synchronize(*found); !waited.ok()) return Failed("synchronize", waited);
  REQUIRE(words->begun[0] == 7);
  devices.UnpinFlightWords();
  return LetGo(devices, *found, *owned);
}

// Exit statuses: 0, as told; 2, a call of the test's own was hit.
PEER(trainer_with_a_fault) {
  const Memory memory = MakeMemory();
  CUcontext before = nullptr, after = nullptr;
  OWN((cuCtxGetCurrent)(&before));
  channel.Send(Round(memory, 1));
  OWN((cuCtxGetCurrent)(&after));
  // Put back what was is itself a call that can fail.
  REQUIRE(before == after || std::strstr(getenv(kFaults), "cuCtxSetCurrent") != nullptr);
  // The next by a thread without a context.
  Outcome next;
  std::thread([&] { next = Round(memory, 2); }).join();
  channel.Send(next);
}

std::set<std::string> CallsOfTheClient() {
  std::set<std::string> calls;
  for (const char* name :
       {"contexts.cc", "contexts.h", "copier.cc", "devices.cc", "fences.cc", "finder.cc", "flight_words.cc",
        "gate_words.cc", "owned_table.cc", "sampler.cc"}) {
    std::ifstream file(std::string("client/device/") + name);
    EXPECT_TRUE(file.is_open()) << name;
    std::stringstream text;
    text << file.rdbuf();
    const std::string source = text.str();
    const std::regex call("\\bcu_?(?:\\.|->)(cu[A-Z]\\w+)\\(");
    for (std::sregex_iterator each(source.begin(), source.end(), call), end; each != end; ++each)
      calls.insert((*each)[1]);
  }
  return calls;
}

class DriverFaultsTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!fake_cuda::HasDriver()) GTEST_SKIP() << "no CUDA driver";
    counters_ = ::testing::TempDir() + "/counters-" + std::to_string(getpid());
    setenv(kCounters, counters_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv(kFaults);
    unsetenv(kCounters);
    std::filesystem::remove(counters_);
  }

  // Whether the fault was met (tests/fake_cuda/counters.h).
  bool Met() const {
    std::ifstream file(counters_, std::ios::binary);
    file.seekg(8 + 16 * 16);
    return file.get() == 1;
  }

  static void ExpectClean(const Outcome& outcome) {
    const std::string step = outcome.step, reason = outcome.reason, message = outcome.message;
    if (step.empty() || step == "copy" || step == "copy back") return;
    // To a driver that finds a value wrong, the program's stream is none.
    const bool of_stream = step == "mark" && reason == "BAD_ARGUMENT" && GetParam() == kSurvivable;
    const bool no_words = step == "announce" && reason == "NO_STREAM_WRITES";  // crash flush is off, and says why
    EXPECT_TRUE(reason == "DEVICE_ERROR" || reason == "BAD_SHARD" || of_stream || no_words)
        << step << ": " << reason << ": " << message;
    EXPECT_THAT(message, testing::HasSubstr("CUDA_ERROR_"));
    EXPECT_THAT(message, testing::ContainsRegex("[abcd]\\.weight|GPU|sampling|context|event|stream|gate|flight record|update")) << step;
  }

  std::string counters_;
};

TEST_P(DriverFaultsTest, EachUseOfEachCall) {
  for (const std::string& call : CallsOfTheClient()) {
    bool seen = false;  // in what the client does
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(call + ", use " + std::to_string(nth));
      std::filesystem::remove(counters_);
      setenv(kFaults, (call + ":" + std::to_string(nth) + ":" + std::to_string(GetParam()) + ":once").c_str(), 1);
      Peer trainer("trainer_with_a_fault");
      const auto told = trainer.channel().TryReceive<Outcome>();
      if (!told.has_value()) {
        EXPECT_EQ(trainer.EndedWith(), 2);
        if (HasFailure()) return;
        continue;  // a call of the test's own
      }
      ExpectClean(*told);
      const auto next = trainer.channel().TryReceive<Outcome>();
      const int status = trainer.EndedWith();
      if (!Met()) {
        EXPECT_EQ(std::string(told->step) + (next.has_value() ? next->step : "no next round"), "");
        break;
      }
      if (next.has_value()) {
        seen = true;
        EXPECT_EQ(status, 0);
        ExpectClean(*next);
        // Met in the first round or, by a later use, in the second.
        EXPECT_TRUE(GetParam() == kFatal || told->step[0] == '\0' || next->step[0] == '\0') << next->message;
      } else {
        EXPECT_EQ(status, 2);
      }
      if (HasFailure()) return;
    }
    EXPECT_TRUE(seen) << call << ": no round makes this call";
  }
}

INSTANTIATE_TEST_SUITE_P(, DriverFaultsTest, testing::Values(kSurvivable, kFatal), [](const auto& info) {
  return info.param == kFatal ? "ThatCudaDoesNotSurvive" : "ThatCudaSurvives";
});

}  // namespace
}  // namespace keepstep::client
