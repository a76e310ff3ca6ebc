// Through a real datagram socket, as the manager would listen.

#include "daemon/notify.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class NotifyTest : public testing::Test {
 protected:
  void SetUp() override {
    char home[] = "/tmp/ksnXXXXXX";
    home_ = mkdtemp(home);
    path_ = home_ + "/notify";
    listener_ = storage::UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  void TearDown() override { std::filesystem::remove_all(home_); }

  // "" after `limit_ms` without one.
  std::string Receive(int limit_ms = 20'000) {
    pollfd one{listener_.get(), POLLIN, 0};
    if (poll(&one, 1, limit_ms) != 1) return "";
    char text[4096];
    const ssize_t got = recv(listener_.get(), text, sizeof(text), 0);
    return std::string(text, got > 0 ? static_cast<size_t>(got) : 0);
  }

  std::string home_, path_;
  storage::UniqueFd listener_;
};

TEST_F(NotifyTest, SaysWhatSystemdUnderstands) {
  const Notifier notifier(path_, microseconds(0));
  notifier.Ready("serves\nunix:///x");
  EXPECT_EQ(Receive(), "READY=1\nSTATUS=serves unix:///x");
  notifier.Reloading();
  EXPECT_TRUE(absl::StartsWith(Receive(), "RELOADING=1\nMONOTONIC_USEC="));
  notifier.Stopping("draining");
  EXPECT_EQ(Receive(), "STOPPING=1\nSTATUS=draining");
}

TEST_F(NotifyTest, NobodyToTellIsNoError) {
  Notifier("", microseconds(0)).Ready("");
  Notifier("/nowhere/notify", microseconds(0)).Ready("");
  Notifier("@nobody-listens-here", microseconds(0)).Ready("");
  Notifier(std::string(200, 'x'), microseconds(0)).Ready("");
}

TEST_F(NotifyTest, ReadsTheManagersWishes) {
  setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", absl::StrCat(getpid()).c_str(), 1);
  EXPECT_EQ(Notifier::FromEnvironment().watchdog(), std::chrono::seconds(3));
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(Notifier::FromEnvironment().watchdog().count(), 0) << "meant for another process";
  unsetenv("WATCHDOG_PID");
  setenv("WATCHDOG_USEC", "soon", 1);
  EXPECT_EQ(Notifier::FromEnvironment().watchdog().count(), 0);
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
}

TEST_F(NotifyTest, FeedsOnlyWhileTheDaemonMoves) {
  const Notifier notifier(path_, std::chrono::milliseconds(60));
  std::atomic<bool> moves{true};
  WatchdogFeeder feeder(&notifier, [&] {
    return moves ? absl::OkStatus() : absl::UnavailableError("the ticker has not moved");
  });
  EXPECT_EQ(Receive(), "WATCHDOG=1");
  EXPECT_EQ(Receive(), "WATCHDOG=1");
  moves = false;
  std::string last = Receive();
  while (last == "WATCHDOG=1") last = Receive();
  EXPECT_EQ(last, "STATUS=the ticker has not moved");
  EXPECT_EQ(Receive(200), "") << "not fed, and said once";
  moves = true;
  EXPECT_EQ(Receive(), "WATCHDOG=1\nSTATUS=moving again");
}

}  // namespace
}  // namespace keepstep::daemon
