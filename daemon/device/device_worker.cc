#include "daemon/device/device_worker.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "daemon/device/child_process.h"
#include "daemon/device/packet.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

absl::Status Lost(absl::string_view reason, const GpuUuid& gpu, absl::string_view why) {
  return MakeError(absl::StatusCode::kAborted, reason,
                   absl::StrCat("The worker of ", GpuName(gpu), " was lost: ", why, ". The next save starts another."),
                   "copy");
}

}  // namespace

std::string GpuName(const GpuUuid& gpu) {
  const std::string hex =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(gpu.data()), gpu.size()));
  return absl::StrCat("GPU-", hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-", hex.substr(16, 4),
                      "-", hex.substr(20));
}

absl::StatusOr<std::unique_ptr<DeviceWorker>> DeviceWorker::Start(const DeviceWorkerSpec& spec, const GpuUuid& gpu) {
  std::unique_ptr<DeviceWorker> worker(new DeviceWorker(spec, gpu));
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return absl::ResourceExhaustedError(absl::StrCat("socketpair: ", strerror(errno)));
  worker->socket_ = storage::UniqueFd(ends[0]);
  const storage::UniqueFd of_child(ends[1]);
  const timeval limit{.tv_sec = spec.stall.count() / 1000, .tv_usec = spec.stall.count() % 1000 * 1000};
  setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));  // a worker that hangs reads nothing either
  auto pid = SpawnChild(spec.command, of_child.get(), kWorkerSocketFd);
  if (!pid.ok()) return pid.status();
  worker->pid_ = *pid;
  worker->reader_ = std::thread([raw = worker.get()] { raw->Read(); });
  WorkerStart start;
  start.gpu = gpu;
  start.memory_bytes = static_cast<uint64_t>(spec.memory_bytes);
  start.pin_bytes = static_cast<uint64_t>(spec.pin_bytes);
  Call started;
  const absl::Status status = worker->Ask(start, spec.memory_fd, spec.start_limit, &started);
  if (!status.ok()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_GPU",
                     absl::StrCat(GpuName(gpu), " cannot be used by the daemon: ", status.message()), "register");
  }
  worker->node_ = started.reply.node;
  worker->why_elsewhere_ = started.reply.text;
  return worker;
}

DeviceWorker::~DeviceWorker() {
  Lose(absl::CancelledError("ended"));
  if (reader_.joinable()) reader_.join();
}

bool DeviceWorker::lost() const {
  std::lock_guard lock(mutex_);
  return !lost_.ok();
}

std::string DeviceWorker::why_lost() const {
  std::lock_guard lock(mutex_);
  return std::string(lost_.message());
}

// Every call, now and later, ends with the first cause.
void DeviceWorker::Lose(absl::Status why) {
  {
    std::lock_guard lock(mutex_);
    if (!lost_.ok()) return;
    lost_ = std::move(why);
  }
  if (pid_ > 0) kill(pid_, SIGKILL);
  shutdown(socket_.get(), SHUT_RDWR);
  changed_.notify_all();
}

absl::Status DeviceWorker::LostAndGone(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [this] { return gone_; });
  return lost_;
}

void DeviceWorker::AwaitGone() {
  std::unique_lock lock(mutex_);
  LostAndGone(lock).IgnoreError();
}

void DeviceWorker::Reap() {
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  std::lock_guard lock(mutex_);
  gone_ = true;
  changed_.notify_all();
}

void DeviceWorker::Read() {
  int resets = 0;  // one is told before the last words of a worker that left requests unread
  for (;;) {
    WorkerReply reply;
    storage::UniqueFd descriptor;
    const ssize_t got = ReceivePacket(socket_.get(), BytesInto(&reply), &descriptor);
    if (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0))) continue;
    if (got != sizeof(reply)) {
      Lose(Lost("DEVICE_LOST", gpu_, "its process has ended"));
      return Reap();
    }
    reply.text[sizeof(reply.text) - 1] = '\0';
    if (reply.fatal != 0) {
      Lose(Lost("DEVICE_LOST", gpu_, reply.text));
      return Reap();
    }
    std::lock_guard lock(mutex_);
    const auto found = calls_.find(reply.id);
    if (found == calls_.end()) continue;  // its caller has given up
    found->second.done = true;
    found->second.reply = reply;
    found->second.descriptor = std::move(descriptor);
    changed_.notify_all();
  }
}

uint64_t DeviceWorker::NewCall() {
  std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  calls_[id];
  return id;
}

absl::Status DeviceWorker::Send(uint64_t id, absl::Span<const std::byte> frame, int descriptor) {
  ssize_t sent = 0;
  {
    std::lock_guard lock(send_mutex_);
    do {
      sent = SendPacket(socket_.get(), frame, descriptor);
    } while (sent < 0 && errno == EINTR);
  }
  if (sent >= 0) return absl::OkStatus();
  const bool stuck = errno == EAGAIN;
  Lose(Lost(stuck ? "DEVICE_STUCK" : "DEVICE_LOST", gpu_, stuck ? "it takes no requests" : strerror(errno)));
  std::unique_lock lock(mutex_);
  calls_.erase(id);
  return LostAndGone(lock);
}

// Whether there is an answer, or none will come or is wanted, within `limit`.
bool DeviceWorker::Wait(uint64_t id, std::chrono::milliseconds limit, Cancellation* cancel) {
  std::unique_lock lock(mutex_);
  const Call& call = calls_[id];
  return changed_.wait_for(lock, limit, [&] {
    return call.done || !lost_.ok() || (cancel != nullptr && cancel->cancelled());
  });
}

// After Wait: what there is; into `got` too, where it is no error.
absl::Status DeviceWorker::Answer(uint64_t id, Cancellation* cancel, Call* got) {
  std::unique_lock lock(mutex_);
  Call call = std::move(calls_[id]);
  calls_.erase(id);
  if (call.done && call.reply.error == 0) {
    if (got != nullptr) *got = std::move(call);
    return absl::OkStatus();
  }
  if (call.done) {
    return MakeError(absl::StatusCode::kAborted, "DEVICE_ERROR", absl::StrCat(GpuName(gpu_), ": ", call.reply.text),
                     "copy");
  }
  if (!lost_.ok()) return LostAndGone(lock);
  lock.unlock();
  return cancel->status();
}

absl::Status DeviceWorker::AnswerInTime(uint64_t id, std::chrono::milliseconds limit, Call* got) {
  if (!Wait(id, limit, nullptr))
    Lose(Lost("DEVICE_STUCK", gpu_, absl::StrCat("no answer for ", limit.count() / 1000, " s")));
  return Answer(id, nullptr, got);
}

template <typename Frame>
absl::Status DeviceWorker::Ask(Frame frame, int descriptor, std::chrono::milliseconds limit, Call* got) {
  frame.header.id = NewCall();
  absl::Status status = Send(
      frame.header.id, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&frame), sizeof(frame)), descriptor);
  return status.ok() ? AnswerInTime(frame.header.id, limit, got) : status;
}

absl::Status DeviceWorker::Map(uint64_t mapping, const MemoryHandle& handle, bool writable) {
  WorkerMap map;
  map.mapping = mapping;
  map.size_bytes = static_cast<uint64_t>(handle.size_bytes);
  map.kind = handle.kind;
  map.writable = writable ? 1 : 0;
  map.ipc = handle.ipc;
  return Ask(map, handle.kind == HandleKind::kDescriptor ? handle.descriptor->get() : -1, spec_.stall);
}

absl::Status DeviceWorker::Unmap(uint64_t mapping) {
  WorkerUnmap unmap;
  unmap.mapping = mapping;
  return Ask(unmap, -1, spec_.stall);
}

absl::StatusOr<storage::UniqueFd> DeviceWorker::Allocate(int64_t size_bytes) {
  WorkerAllocate allocate;
  allocate.size_bytes = static_cast<uint64_t>(size_bytes);
  Call made;
  if (absl::Status status = Ask(allocate, -1, spec_.stall, &made); !status.ok()) return status;
  if (made.descriptor.valid()) return std::move(made.descriptor);
  return MakeError(absl::StatusCode::kAborted, "DEVICE_ERROR",
                   absl::StrCat(GpuName(gpu_), ": new memory came without its descriptor; is ulimit -n too small?"),
                   "allocate");
}

absl::Status DeviceWorker::Await(const IpcHandle& event, Cancellation& cancel) {
  WorkerAwait await;
  await.event = event;
  await.header.id = NewCall();
  absl::Status status = Send(await.header.id,
                             absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&await), sizeof(await)), -1);
  if (!status.ok()) return status;
  Cancellation::Hook hook(cancel, [this] {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  });
  while (!Wait(await.header.id, spec_.stall, &cancel)) {
    // Not reached yet, which is the trainer's affair. A worker that is lost is what the next Wait finds.
    Ask(WorkerPing{}, -1, spec_.stall).IgnoreError();
  }
  status = Answer(await.header.id, &cancel);
  if (cancel.cancelled()) Forget(await.header.id);
  return status;
}

// What fails here finds the worker lost, and the event with it.
void DeviceWorker::Forget(uint64_t await) {
  WorkerForget forget;
  forget.await = await;
  (void)Send(0, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&forget), sizeof(forget)), -1);
}

void DeviceWorker::Pin(int64_t offset_bytes, int64_t size_bytes) {
  WorkerPin pin;
  pin.offset_bytes = static_cast<uint64_t>(offset_bytes);
  pin.size_bytes = static_cast<uint64_t>(size_bytes);
  // It fails where the worker is lost: then there is nothing to pin for.
  (void)Send(0, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&pin), sizeof(pin)), -1);
}

absl::Status DeviceWorker::Copy(bool into_device, absl::Span<const WorkerCopyRun> runs) {
  // All frames first, so that the GPU need not wait for the daemon between two of them.
  std::vector<uint64_t> ids;
  absl::Status status;
  for (size_t at = 0; at < runs.size() && status.ok(); at += kMaxCopyRuns) {
    const auto some = runs.subspan(at, std::min(kMaxCopyRuns, runs.size() - at));
    WorkerCopy copy;
    copy.header.id = NewCall();
    copy.into_device = into_device ? 1 : 0;
    copy.count = static_cast<uint32_t>(some.size());
    std::vector<std::byte> frame(sizeof(copy) + some.size() * sizeof(WorkerCopyRun));
    std::memcpy(frame.data(), &copy, sizeof(copy));
    std::memcpy(frame.data() + sizeof(copy), some.data(), some.size() * sizeof(WorkerCopyRun));
    status = Send(copy.header.id, frame, -1);
    if (status.ok()) ids.push_back(copy.header.id);
  }
  for (uint64_t id : ids) {
    const absl::Status answered = AnswerInTime(id, spec_.stall);
    if (status.ok()) status = answered;
  }
  return status;
}

}  // namespace keepstep::daemon
