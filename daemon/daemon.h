// One keepstepd: everything wired, started in order, stopped by its destructor.
//
//   1. The state directory's lock is taken: one daemon per state directory. Stale sockets are replaced only
//      with it held.
//   2. I/O engine, staging pool, catalog; then the jobs beneath the roots and in the journal, each settling
//      what it finds.
//   3. Handoff and gRPC sockets; a timer feeds ticks, heartbeats and looks at the clients' pages.
// The destructor stops in reverse; saves that are not decided stay in the journal.

#ifndef KEEPSTEP_DAEMON_DAEMON_H_
#define KEEPSTEP_DAEMON_DAEMON_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/daemon_spec.h"
#include "daemon/log.h"

namespace keepstep::daemon {

class Daemon {
 public:
  // FAILED_PRECONDITION: another daemon holds the state directory; INVALID_ARGUMENT: a bad spec; errors of
  // the system.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonSpec& spec);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  const std::string& address() const;  // unix:///…/keepstep.sock
  std::string http_address() const;    // http://127.0.0.1:7070 with the real port, unix:/…, or ""
  Log& log();
  // OK while its ticker beats and every job's logic moves (health.h). Any thread; does not block.
  absl::Status alive() const;
  // A client is connected, or something is under way that should not be broken off: a save, a load, a
  // deletion, what an earlier daemon left. Any thread; waits for the jobs' logic.
  bool in_use() const;

  // Applies what can change while it runs (ConfigKey::reloads); the rest of `spec` is that of the start. Any
  // thread, one at a time.
  void Reconfigure(const DaemonSpec& spec);

  // No new saves; returns how many are undecided when all are decided or `limit` has passed. After a drain
  // that somebody asked for, with the process's end, it waits no more.
  int32_t Drain(std::chrono::milliseconds limit);

 private:
  struct Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DAEMON_H_
