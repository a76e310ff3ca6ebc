#include "daemon/pull_port.h"

#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxVectors = 1023;  // the kernel takes 1024; one carries the nonce
constexpr int64_t kMaxBatchBytes = int64_t{64} << 20;
constexpr int kMaxInterrupts = 1000;

absl::Status Died() { return absl::AbortedError("the trainer process has ended"); }

absl::Status OtherProcess() {
  return absl::AbortedError("the process under the trainer's pid is not the one that registered");
}

absl::Status CallFailed(absl::string_view call, int error, uint64_t address) {
  switch (error) {
    case ESRCH:
      return Died();
    case EFAULT:
      return absl::OutOfRangeError(
          absl::StrFormat("%s: the trainer's memory at %#x is not mapped any more", call, address));
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(call, ": not permitted on the trainer"));
    case ENOMEM:
      return absl::ResourceExhaustedError(absl::StrCat(call, ": no kernel memory"));
    default:
      return absl::AbortedError(absl::StrCat(call, ": errno ", error));
  }
}

// Takes from runs, from byte `skip` of the first on, as many as one call can move.
struct Vectors {
  std::vector<iovec> remote, local;
  int64_t size_bytes = 0;

  static void Append(std::vector<iovec>& to, void* base, size_t size) {
    if (!to.empty() && static_cast<char*>(to.back().iov_base) + to.back().iov_len == base) {
      to.back().iov_len += size;
    } else {
      to.push_back({base, size});
    }
  }

  void Fill(absl::Span<const MemoryRun> runs, int64_t skip) {
    for (const MemoryRun& run : runs) {
      if (remote.size() >= kMaxVectors || local.size() >= kMaxVectors || size_bytes >= kMaxBatchBytes) return;
      const int64_t take = std::min(run.size_bytes - skip, kMaxBatchBytes - size_bytes);
      Append(remote, reinterpret_cast<void*>(run.address + skip), take);
      Append(local, run.local + skip, take);
      size_bytes += take;
      if (take < run.size_bytes - skip) return;
      skip = 0;
    }
  }
};

// Moves past `bytes`: (index of a run, bytes of it already moved).
void Advance(absl::Span<const MemoryRun> runs, int64_t bytes, size_t* index, int64_t* skip) {
  while (bytes > 0) {
    const int64_t left = runs[*index].size_bytes - *skip;
    if (bytes < left) {
      *skip += bytes;
      return;
    }
    bytes -= left;
    ++*index;
    *skip = 0;
  }
}

}  // namespace

PullPort::PullPort(pid_t pid, int pidfd, uint64_t nonce_address, const SessionNonce& nonce)
    : pid_(pid), pidfd_(pidfd), nonce_address_(nonce_address), nonce_(nonce) {}

absl::Status PullPort::StillAlive() const {
  pollfd poll_pid{pidfd_, POLLIN, 0};
  const int fired = poll(&poll_pid, 1, 0);
  return fired == 0 ? absl::OkStatus() : Died();
}

absl::StatusOr<int64_t> PullPort::ReadOnce(absl::Span<const MemoryRun> runs, int64_t skip) const {
  Vectors vectors;
  SessionNonce seen{};
  const iovec nonce_here{seen.data(), seen.size()};
  const iovec nonce_there{reinterpret_cast<void*>(nonce_address_), seen.size()};
  vectors.Fill(runs, skip);
  vectors.remote.insert(vectors.remote.begin(), nonce_there);
  vectors.local.insert(vectors.local.begin(), nonce_here);
  const uint64_t first_address = runs.empty() ? nonce_address_ : runs.front().address + skip;
  ssize_t moved;
  int interrupts = 0;
  do {
    moved = process_vm_readv(pid_, vectors.local.data(), vectors.local.size(), vectors.remote.data(),
                             vectors.remote.size(), 0);
  } while (moved < 0 && errno == EINTR && ++interrupts < kMaxInterrupts);
  if (moved < 0) {
    const int error = errno;
    if (absl::Status status = StillAlive(); !status.ok()) return status;
    return error == EFAULT ? OtherProcess() : CallFailed("process_vm_readv", error, first_address);
  }
  if (moved < static_cast<ssize_t>(seen.size()) || seen != nonce_) return OtherProcess();
  if (absl::Status status = StillAlive(); !status.ok()) return status;
  const int64_t data_bytes = moved - static_cast<int64_t>(seen.size());
  if (data_bytes == 0 && vectors.size_bytes > 0) return CallFailed("process_vm_readv", EFAULT, first_address);
  return data_bytes;
}

absl::Status PullPort::Check() const { return ReadOnce({}, 0).status(); }

absl::Status PullPort::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  size_t index = 0;
  int64_t skip = 0;
  while (index < runs.size()) {
    if (cancel.cancelled()) return cancel.status();
    absl::StatusOr<int64_t> moved = ReadOnce(runs.subspan(index), skip);
    if (!moved.ok()) return moved.status();
    Advance(runs, *moved, &index, &skip);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> PullPort::WriteOnce(absl::Span<const MemoryRun> runs, int64_t skip) const {
  Vectors vectors;
  vectors.Fill(runs, skip);
  ssize_t moved;
  int interrupts = 0;
  do {
    moved = process_vm_writev(pid_, vectors.local.data(), vectors.local.size(), vectors.remote.data(),
                              vectors.remote.size(), 0);
  } while (moved < 0 && errno == EINTR && ++interrupts < kMaxInterrupts);
  if (moved < 0) {
    const int error = errno;
    if (absl::Status status = StillAlive(); !status.ok()) return status;
    return CallFailed("process_vm_writev", error, runs.front().address + skip);
  }
  if (moved == 0) return CallFailed("process_vm_writev", EFAULT, runs.front().address + skip);
  return moved;
}

absl::Status PullPort::Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  if (absl::Status status = Check(); !status.ok()) return status;
  size_t index = 0;
  int64_t skip = 0;
  while (index < runs.size()) {
    if (cancel.cancelled()) return cancel.status();
    absl::StatusOr<int64_t> moved = WriteOnce(runs.subspan(index), skip);
    if (!moved.ok()) return moved.status();
    Advance(runs, *moved, &index, &skip);
  }
  return Check();
}

}  // namespace keepstep::daemon
