// Ctrl-C as a question to ask, for verbs that go on until somebody stops them.

#ifndef KEEPSTEP_CLIENT_COMMAND_INTERRUPT_H_
#define KEEPSTEP_CLIENT_COMMAND_INTERRUPT_H_

#include <chrono>

namespace keepstep::client {

// From the first instance on, SIGINT and SIGTERM no longer end the process. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();  // signals do what they did before
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool came() const;
  // True when it came, at once; else false after `time`.
  bool WaitFor(std::chrono::milliseconds time) const;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_INTERRUPT_H_
