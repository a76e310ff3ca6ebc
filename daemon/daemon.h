// One keepstepd: everything wired, started in order, stopped by its destructor.
//
//   1. The state directory's lock is taken: one daemon per state directory. Stale sockets are replaced only
//   with
//      it held.
//   2. I/O engine, staging pool, catalog; then the jobs beneath the roots and in the journal, each settling
//   what
//      it finds.
//   3. Handoff and gRPC sockets; a timer feeds ticks, heartbeats and looks at the clients' pages.
// The destructor stops in reverse; saves that are not decided stay in the journal.

#ifndef KEEPSTEP_DAEMON_DAEMON_H_
#define KEEPSTEP_DAEMON_DAEMON_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/log.h"
#include "daemon/window_port.h"
#include "storage/io_engine.h"

namespace keepstep::daemon {

struct DaemonSpec {
  std::string socket_directory;  // made with mode 0750 if missing
  std::string state_directory;   // made with mode 0700 if missing
  std::vector<std::string> roots;
  int64_t pool_bytes = 0;  // 0: a quarter of the memory
  int64_t window_bytes = kDefaultWindowBytes;
  storage::IoEngineOptions::Kind io_engine = storage::IoEngineOptions::Kind::kAuto;
  Log::Format log_format = Log::Format::kText;
};

class Daemon {
 public:
  // FAILED_PRECONDITION: another daemon holds the state directory; INVALID_ARGUMENT: a bad spec; errors of
  // the system.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonSpec& spec);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  const std::string& address() const;  // unix:///…/keepstep.sock

  // No new saves; returns how many are undecided when all are decided or `limit` has passed.
  int32_t Drain(std::chrono::milliseconds limit);

 private:
  struct Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DAEMON_H_
