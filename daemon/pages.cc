#include "daemon/pages.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace keepstep::daemon {
namespace {

absl::Status Failed(const char* what) {
  return absl::ResourceExhaustedError(absl::StrCat(what, " of a session's memory: ", strerror(errno)));
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Make(const char* name, int64_t size_bytes, Peer peer) {
  storage::UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Failed("memfd_create");
  if (ftruncate(fd.get(), size_bytes) != 0) return Failed("ftruncate");
  void* base = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return Failed("mmap");
  SharedMemory memory(std::move(fd), absl::MakeSpan(static_cast<std::byte*>(base), size_bytes));
  const int seals =
      F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (peer == Peer::kMayOnlyRead ? F_SEAL_FUTURE_WRITE : 0);
  if (fcntl(memory.fd(), F_ADD_SEALS, seals) != 0) return Failed("F_ADD_SEALS");
  return memory;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

absl::StatusOr<std::unique_ptr<SessionPages>> SessionPages::Make() {
  auto daemon =
      SharedMemory::Make("keepstep-daemon-page", proto::kPageBytes, SharedMemory::Peer::kMayOnlyRead);
  if (!daemon.ok()) return daemon.status();
  auto client = SharedMemory::Make("keepstep-client-page", proto::kPageBytes, SharedMemory::Peer::kMayWrite);
  if (!client.ok()) return client.status();
  return std::unique_ptr<SessionPages>(new SessionPages(*std::move(daemon), *std::move(client)));
}

SessionPages::SessionPages(SharedMemory daemon_memory, SharedMemory client_memory)
    : daemon_memory_(std::move(daemon_memory)), client_memory_(std::move(client_memory)) {
  daemon_ = new (daemon_memory_.bytes().data()) proto::DaemonPage;
  client_ = new (client_memory_.bytes().data()) proto::ClientPage;
}

void SessionPages::Wake(uint32_t bits) {
  daemon_->changes.fetch_add(1, std::memory_order_release);
  syscall(SYS_futex, &daemon_->changes, FUTEX_WAKE_BITSET, INT_MAX, nullptr, nullptr, bits);
}

void SessionPages::Beat(uint64_t monotonic_ns) {
  daemon_->heartbeat_ns.store(monotonic_ns, std::memory_order_release);
}

void SessionPages::AddProgress(int64_t bytes) {
  daemon_->progress_bytes.fetch_add(static_cast<uint64_t>(bytes), std::memory_order_release);
}

void SessionPages::SetSaveAt(int64_t step) {
  daemon_->save_at.store(step, std::memory_order_release);
  Wake();
}

void SessionPages::SetState(uint64_t number, SaveState state) {
  std::atomic<uint64_t>& slot = daemon_->states[number % proto::kSaveSlots];
  if (proto::SlotNumber(slot.load(std::memory_order_acquire)) > number) return;
  slot.store(proto::PackSlot(number, static_cast<uint8_t>(state)), std::memory_order_release);
  Wake(state <= SaveState::kAccepted ? proto::kAnswerBit : proto::kAllBits);
}

void SessionPages::RefuseAsk(uint64_t number) {
  const std::atomic<uint64_t>& slot = daemon_->states[number % proto::kSaveSlots];
  if (proto::SlotNumber(slot.load(std::memory_order_acquire)) < number) SetState(number, SaveState::kNone);
}

void SessionPages::Release(uint64_t number, uint32_t group) {
  if (group >= proto::kMaxGroups) return;
  if (daemon_->released[group].load(std::memory_order_acquire) >= number) return;
  daemon_->released[group].store(number, std::memory_order_release);
  Wake();
}

void SessionPages::ReleaseAll(uint64_t number) {
  for (std::atomic<uint64_t>& group : daemon_->released) {
    if (group.load(std::memory_order_acquire) < number) group.store(number, std::memory_order_release);
  }
  Wake();
}

proto::Verdict SessionPages::VerdictOf(uint64_t number) const {
  const uint64_t slot = client_->verdicts[number % proto::kSaveSlots].load(std::memory_order_acquire);
  if (proto::SlotNumber(slot) != number) return proto::Verdict::kNone;
  switch (const auto verdict = static_cast<proto::Verdict>(proto::SlotValue(slot))) {
    case proto::Verdict::kOpen:
    case proto::Verdict::kSealed:
    case proto::Verdict::kPoisoned:
      return verdict;
    default:
      return proto::Verdict::kNone;
  }
}

}  // namespace keepstep::daemon
