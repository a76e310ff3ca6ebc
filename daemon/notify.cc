#include "daemon/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr int kFeedsPerPeriod = 3;  // one may be late, and another lost

absl::string_view Variable(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? absl::string_view() : absl::string_view(value);
}

std::string Status(absl::string_view text) {
  return absl::StrCat("STATUS=", absl::StrReplaceAll(text, {{"\n", " "}}));
}

int64_t MonotonicUs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
}

}  // namespace

Notifier Notifier::FromEnvironment() {
  int64_t period_us = 0, pid = 0;
  const bool ours = Variable("WATCHDOG_PID").empty() ||
                    (absl::SimpleAtoi(Variable("WATCHDOG_PID"), &pid) && pid == getpid());
  if (!ours || !absl::SimpleAtoi(Variable("WATCHDOG_USEC"), &period_us) || period_us < 0) period_us = 0;
  return Notifier(std::string(Variable("NOTIFY_SOCKET")), std::chrono::microseconds(period_us));
}

void Notifier::Ready(absl::string_view status) const { Send(absl::StrCat("READY=1\n", Status(status))); }

void Notifier::Reloading() const { Send(absl::StrCat("RELOADING=1\nMONOTONIC_USEC=", MonotonicUs())); }

void Notifier::Stopping(absl::string_view status) const {
  Send(absl::StrCat("STOPPING=1\n", Status(status)));
}

void Notifier::Send(absl::string_view message) const {
  sockaddr_un address{};
  if (socket_.empty() || socket_.size() >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, socket_.data(), socket_.size());
  if (socket_.front() == '@') address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  const storage::UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return;
  (void)!sendto(fd.get(), message.data(), message.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address),
                size);
}

WatchdogFeeder::WatchdogFeeder(const Notifier* notifier, std::function<absl::Status()> alive)
    : notifier_(*notifier), alive_(std::move(alive)) {
  if (notifier_.watchdog().count() > 0) thread_ = std::thread([this] { Run(); });
}

WatchdogFeeder::~WatchdogFeeder() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void WatchdogFeeder::Run() {
  bool told = false;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const absl::Status alive = alive_();
    if (alive.ok()) {
      notifier_.Send(told ? "WATCHDOG=1\nSTATUS=moving again" : "WATCHDOG=1");
    } else if (!told) {
      notifier_.Send(Status(alive.message()));
    }
    told = !alive.ok();
    lock.lock();
    wake_.wait_for(lock, notifier_.watchdog() / kFeedsPerPeriod, [this] { return stopping_; });
  }
}

}  // namespace keepstep::daemon
