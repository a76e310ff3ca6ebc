// Pull from a real other process; window with a client's copy thread in this one.

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "daemon/pull_port.h"
#include "daemon/window_port.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kMemoryBytes = 1 << 20;

// A child with memory of its own at the parent's addresses: `memory` shared so that the test can look into
// what the child has, behind a private page that only it has.
class Trainer {
 public:
  Trainer() {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (int64_t i = 0; i < kMemoryBytes; ++i) memory_[i] = std::byte(i * 7 >> 3);
    nonce_.fill(0x5a);
    int pipe_fds[2];
    EXPECT_EQ(pipe(pipe_fds), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(pipe_fds[0], 0);
      close(pipe_fds[1]);
      char wait;
      if (read(0, &wait, 1) == 1) execl("/bin/cat", "cat", nullptr);
      _exit(0);
    }
    close(pipe_fds[0]);
    control_ = pipe_fds[1];
    pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  }
  ~Trainer() {
    Kill();
    close(pidfd_);
    close(control_);
    munmap(memory_, kMemoryBytes);
  }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    int status;
    waitpid(pid_, &status, 0);
    pid_ = 0;
  }

  // Another image under the same pid. Returns once the old one is gone.
  void Exec(const PullPort& port) {
    ASSERT_EQ(write(control_, "x", 1), 1);
    while (port.Check().ok()) std::this_thread::yield();
  }

  PullPort Port() const { return PullPort(pid_, pidfd_, reinterpret_cast<uint64_t>(nonce_.data()), nonce_); }
  std::byte* memory() const { return memory_; }
  uint64_t address(int64_t offset) const { return reinterpret_cast<uint64_t>(memory_ + offset); }
  SessionNonce& nonce() { return nonce_; }

 private:
  std::byte* memory_;
  SessionNonce nonce_;
  pid_t pid_ = 0;
  int pidfd_ = -1;
  int control_ = -1;
};

TEST(PullPort, ReadsAndWritesThousandsOfRuns) {
  Trainer trainer;
  PullPort port = trainer.Port();
  Cancellation cancel;
  std::vector<std::byte> local(5000 * 10);
  std::vector<MemoryRun> runs;
  for (int64_t i = 0; i < 5000; ++i)
    runs.push_back({trainer.address(i * 200 + 3), local.data() + i * 10, 10});
  ASSERT_TRUE(port.Read(runs, cancel).ok());
  for (int64_t i = 0; i < 5000; ++i)
    ASSERT_EQ(std::memcmp(local.data() + i * 10, trainer.memory() + i * 200 + 3, 10), 0);
  std::fill(local.begin(), local.end(), std::byte{0xee});
  ASSERT_TRUE(port.Write(runs, cancel).ok());
  for (int64_t i = 0; i < 5000; ++i) {
    ASSERT_EQ(trainer.memory()[i * 200 + 12], std::byte{0xee});
    ASSERT_EQ(trainer.memory()[i * 200 + 13], std::byte((i * 200 + 13) * 7 >> 3));
  }
}

TEST(PullPort, NamesAnAddressThatIsGone) {
  Trainer trainer;
  PullPort port = trainer.Port();
  Cancellation cancel;
  std::byte local[32];
  const std::vector<MemoryRun> runs = {{trainer.address(0), local, 16}, {0x1000, local + 16, 16}};
  const absl::Status status = port.Read(runs, cancel);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  EXPECT_NE(std::string(status.message()).find("0x1000"), std::string::npos) << status;
  EXPECT_EQ(port.Write(runs, cancel).code(), absl::StatusCode::kOutOfRange);
}

// A process that is not the one that registered must not be read, whatever its pid.
TEST(PullPort, RefusesAnotherImageUnderTheSamePid) {
  Trainer trainer;
  PullPort port = trainer.Port();
  ASSERT_TRUE(port.Check().ok());
  trainer.Exec(port);
  Cancellation cancel;
  std::byte local[16];
  const std::vector<MemoryRun> runs = {{trainer.address(0), local, 16}};
  EXPECT_EQ(port.Read(runs, cancel).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(port.Write(runs, cancel).code(), absl::StatusCode::kAborted);
}

TEST(PullPort, RefusesAnotherNonce) {
  Trainer trainer;
  PullPort honest = trainer.Port();
  ASSERT_TRUE(honest.Check().ok());
  SessionNonce other;
  other.fill(1);
  PullPort port(getpid(), static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)),
                reinterpret_cast<uint64_t>(trainer.nonce().data()), other);
  EXPECT_EQ(port.Check().code(), absl::StatusCode::kAborted);
}

TEST(PullPort, SaysThatTheTrainerDied) {
  Trainer trainer;
  PullPort port = trainer.Port();
  trainer.Kill();
  Cancellation cancel;
  std::byte local[16];
  const absl::Status status = port.Read(std::vector<MemoryRun>{{trainer.address(0), local, 16}}, cancel);
  EXPECT_EQ(status, absl::AbortedError("the trainer process has ended"));
}

// Copies between this process and the window on a thread, as a client does.
class FakeClient : public CopyFrameSink {
 public:
  explicit FakeClient(absl::Span<std::byte> window) : window_(window), thread_([this] { Run(); }) {}
  ~FakeClient() override { End(); }
  // Afterwards no thread calls the port.
  void End() {
    Stop();
    if (thread_.joinable()) thread_.join();
  }
  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }

  absl::Status SendCopy(uint64_t id, bool into_client, absl::Span<const proto::CopyEntry> entries) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (entries.empty() || entries.size() > proto::kMaxCopyEntries) return absl::InternalError("a bad frame");
    ++frames_;
    if (mute_) {
      held_.push_back(id);
    } else {
      queue_.push_back({id, into_client, {entries.begin(), entries.end()}});
    }
    changed_.notify_all();
    return absl::OkStatus();
  }

  uint64_t AwaitHeld(size_t n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return held_.size() >= n; });
    return held_[n - 1];
  }

  WindowPort* port = nullptr;
  std::atomic<bool> mute_{false};
  std::atomic<int32_t> error{0};
  int frames_ = 0;

 private:
  struct Frame {
    uint64_t id;
    bool into_client;
    std::vector<proto::CopyEntry> entries;
  };

  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Frame frame = queue_.front();
      queue_.pop_front();
      lock.unlock();
      for (const proto::CopyEntry& entry : frame.entries) {
        std::byte* there = reinterpret_cast<std::byte*>(entry.address);
        std::byte* here = window_.data() + entry.window_offset_bytes;
        std::memcpy(frame.into_client ? there : here, frame.into_client ? here : there, entry.size_bytes);
      }
      port->OnCopyDone(frame.id, error);
      lock.lock();
    }
  }

  const absl::Span<std::byte> window_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Frame> queue_;
  std::vector<uint64_t> held_;
  bool stopping_ = false;
  std::thread thread_;
};

class WindowPortTest : public testing::Test {
 protected:
  WindowPortTest()
      : window_(kWindowSlots * 8192),
        client_(absl::MakeSpan(window_)),
        port_(absl::MakeSpan(window_), &client_) {
    client_.port = &port_;
  }
  ~WindowPortTest() override { client_.End(); }

  std::vector<std::byte> window_;
  FakeClient client_;
  WindowPort port_;
  Cancellation cancel_;
};

std::vector<MemoryRun> Runs(std::vector<std::byte>& there, std::vector<std::byte>& here, int64_t run_bytes) {
  std::vector<MemoryRun> runs;
  const auto size = static_cast<int64_t>(there.size());
  for (int64_t at = 0; at < size; at += run_bytes) {
    runs.push_back(
        {reinterpret_cast<uint64_t>(there.data() + at), here.data() + (size - at - run_bytes), run_bytes});
  }
  return runs;
}

TEST_F(WindowPortTest, MovesRunsLargerAndSmallerThanASlotBothWaysFromSeveralThreads) {
  for (const int64_t run_bytes : {4, 1000, 50000}) {
    std::vector<std::future<void>> movers;
    for (int thread = 0; thread < 6; ++thread) {
      movers.push_back(std::async(std::launch::async, [&, thread, run_bytes] {
        std::vector<std::byte> there(100000), here(100000), back(100000);
        for (size_t i = 0; i < there.size(); ++i) there[i] = std::byte(i * 31 + thread);
        ASSERT_TRUE(port_.Read(Runs(there, here, run_bytes), cancel_).ok());
        ASSERT_TRUE(port_.Write(Runs(back, here, run_bytes), cancel_).ok());
        EXPECT_EQ(there, back);
      }));
    }
    for (auto& mover : movers) mover.get();
  }
  client_.Stop();
}

TEST_F(WindowPortTest, SaysWhyTheClientFailed) {
  std::vector<std::byte> there(16), here(16);
  client_.error = EFAULT;
  EXPECT_EQ(port_.Read(Runs(there, here, 16), cancel_).code(), absl::StatusCode::kOutOfRange);
  client_.error = EIO;
  EXPECT_EQ(port_.Read(Runs(there, here, 16), cancel_).code(), absl::StatusCode::kAborted);
}

// A copy that comes late must not land in bytes of a later request: its slot stays taken.
TEST_F(WindowPortTest, AnAbandonedSlotWaitsForItsCopy) {
  client_.mute_ = true;
  std::vector<std::byte> there(16), here(16);
  std::vector<std::future<absl::Status>> calls;
  for (int i = 0; i < kWindowSlots; ++i) {
    calls.push_back(
        std::async(std::launch::async, [&] { return port_.Write(Runs(there, here, 16), cancel_); }));
    client_.AwaitHeld(i + 1);
  }
  cancel_.Cancel(absl::CancelledError("no more"));
  for (auto& call : calls) EXPECT_EQ(call.get().code(), absl::StatusCode::kCancelled);
  Cancellation other;
  client_.mute_ = false;
  auto waits = std::async(std::launch::async, [&] { return port_.Write(Runs(there, here, 16), other); });
  EXPECT_EQ(waits.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  EXPECT_TRUE(port_.OnCopyDone(client_.AwaitHeld(1), 0));
  EXPECT_FALSE(port_.OnCopyDone(client_.AwaitHeld(1), 0));
  EXPECT_TRUE(waits.get().ok());
}

TEST_F(WindowPortTest, ADeadSessionFailsEveryWaiterAtOnce) {
  client_.mute_ = true;
  std::vector<std::byte> there(16), here(16);
  std::vector<std::future<absl::Status>> calls;
  for (int i = 0; i < kWindowSlots + 2; ++i)
    calls.push_back(
        std::async(std::launch::async, [&] { return port_.Read(Runs(there, here, 16), cancel_); }));
  client_.AwaitHeld(kWindowSlots);
  port_.OnSessionEnded(absl::AbortedError("the client is gone"));
  for (auto& call : calls) EXPECT_EQ(call.get(), absl::AbortedError("the client is gone"));
  EXPECT_EQ(port_.Read(Runs(there, here, 16), cancel_), absl::AbortedError("the client is gone"));
}

}  // namespace
}  // namespace keepstep::daemon
