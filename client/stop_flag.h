// A flag that threads wait for by poll: set once, it stays set.

#ifndef KEEPSTEP_CLIENT_STOP_FLAG_H_
#define KEEPSTEP_CLIENT_STOP_FLAG_H_

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "client/unique_fd.h"

namespace keepstep::client {

class StopFlag {
 public:
  StopFlag() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  void Set() {
    const uint64_t one = 1;
    (void)!write(fd_.get(), &one, sizeof(one));
  }
  // Whether it is set, waiting for that at most `timeout_ms`.
  bool Wait(int64_t timeout_ms) const {
    pollfd watched{.fd = fd_.get(), .events = POLLIN};
    return poll(&watched, 1, static_cast<int>(timeout_ms)) > 0;
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_STOP_FLAG_H_
