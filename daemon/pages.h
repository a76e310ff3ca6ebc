// Memory that a session shares with its client: the two pages of proto/session_page.h, and the window.
//
// Every memfd is sealed against resizing before the client gets it, so neither side can end the other with
// SIGBUS; the daemon's page also against writes from now on (F_SEAL_FUTURE_WRITE): the daemon's mapping, made
// before, is the only one that can change it.

#ifndef KEEPSTEP_DAEMON_PAGES_H_
#define KEEPSTEP_DAEMON_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "daemon/logic/events.h"
#include "proto/session_page.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// A sealed memfd, mapped to write. Movable.
class SharedMemory {
 public:
  enum class Peer { kMayWrite, kMayOnlyRead };

  // RESOURCE_EXHAUSTED when the kernel gives none.
  static absl::StatusOr<SharedMemory> Make(const char* name, int64_t size_bytes, Peer peer);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  int fd() const { return fd_.get(); }
  absl::Span<std::byte> bytes() const { return bytes_; }

 private:
  SharedMemory(storage::UniqueFd fd, absl::Span<std::byte> bytes) : fd_(std::move(fd)), bytes_(bytes) {}

  storage::UniqueFd fd_;
  absl::Span<std::byte> bytes_;
};

// Thread-safe: writers of one word are serialized by their callers, words are atomic.
class SessionPages {
 public:
  static absl::StatusOr<std::unique_ptr<SessionPages>> Make();

  int daemon_page_fd() const { return daemon_memory_.fd(); }
  int client_page_fd() const { return client_memory_.fd(); }

  void Beat(uint64_t monotonic_ns);  // no wake: nobody waits for a heartbeat
  void AddProgress(int64_t bytes);
  void SetSaveAt(int64_t step);
  void SetState(uint64_t number, SaveState state);  // never replaces a newer save's slot
  void RefuseAsk(uint64_t number);                  // "call Sessions.Save"; keeps a state that is there
  void Release(uint64_t number, uint32_t group);    // never falls
  void ReleaseAll(uint64_t number);

  // What the client says of save `number`; kNone when its slot is not about that save.
  proto::Verdict VerdictOf(uint64_t number) const;
  int64_t step_stored() const { return client_->step_stored.load(std::memory_order_acquire); }
  bool wishes_save() const { return client_->wishes_save.load(std::memory_order_acquire) != 0; }

 private:
  SessionPages(SharedMemory daemon_memory, SharedMemory client_memory);
  void Wake(uint32_t bits = proto::kAllBits);

  SharedMemory daemon_memory_;
  SharedMemory client_memory_;
  proto::DaemonPage* daemon_;
  const proto::ClientPage* client_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PAGES_H_
