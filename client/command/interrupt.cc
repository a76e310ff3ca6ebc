#include "client/command/interrupt.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace keepstep::client {
namespace {

std::atomic<bool> interrupted{false};
std::atomic<int> wake_fd{-1};
struct sigaction before_int, before_term;

void OnSignal(int) {
  const int error = errno;
  interrupted = true;
  eventfd_write(wake_fd, 1);
  errno = error;
}

}  // namespace

Interrupt::Interrupt() {
  interrupted = false;
  wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigaction(SIGINT, &action, &before_int);
  sigaction(SIGTERM, &action, &before_term);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &before_int, nullptr);
  sigaction(SIGTERM, &before_term, nullptr);
  close(wake_fd.exchange(-1));
}

bool Interrupt::came() const { return interrupted; }

bool Interrupt::WaitFor(std::chrono::milliseconds time) const {
  const auto until = std::chrono::steady_clock::now() + time;
  while (!interrupted) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd wake{wake_fd, POLLIN, 0};
    poll(&wake, 1, static_cast<int>(left.count()));
  }
  return true;
}

}  // namespace keepstep::client
