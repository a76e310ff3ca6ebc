// The two shared pages of a connected session, as the ledger and the gate see them.

#ifndef KEEPSTEP_CLIENT_SESSION_PAGES_H_
#define KEEPSTEP_CLIENT_SESSION_PAGES_H_

#include <cstdint>
#include <string>

#include "proto/session_page.h"

namespace keepstep::client {

// Thread-safe. The pages stay mapped while the object lives, whatever becomes of the daemon.
class SessionPages {
 public:
  virtual ~SessionPages() = default;

  virtual const proto::DaemonPage& daemon() const = 0;
  virtual proto::ClientPage& client() const = 0;

  // Tells the daemon that the client's page has changed. Never blocks; a lost notice costs the daemon's next
  // timer.
  virtual void Notify() = 0;

  // Asks for a save by an encoded v1::SaveRequest; the daemon answers in its page (proto/handoff.h). Never
  // blocks. False: not sent, it is too long or the socket is full.
  virtual bool AskSave(const std::string& request) = 0;

  // The process that writes the daemon's page has ended.
  virtual bool DaemonGone() const = 0;

  // Blocks until the daemon has ended, `wake_fd` is readable, or the time is up.
  virtual void AwaitGone(int wake_fd, int64_t timeout_ms) const = 0;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SESSION_PAGES_H_
