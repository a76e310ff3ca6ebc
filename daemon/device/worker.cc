#include "daemon/device/worker.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/device/device_context.h"
#include "daemon/device/packet.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr int kLookMs = 200;   // errors of queued copies are looked for so often
constexpr int kAwaitNs = 50'000;  // events of other processes are asked for so often: the driver tells nobody

struct Frame {
  std::vector<std::byte> bytes;
  storage::UniqueFd descriptor;

  template <typename T>
  bool As(T* into) const {
    if (bytes.size() < sizeof(T)) return false;
    std::memcpy(static_cast<void*>(into), bytes.data(), sizeof(T));
    return true;
  }
};

class Worker {
 public:
  Worker(int socket_fd, std::string sysfs) : socket_(socket_fd), sysfs_(std::move(sysfs)) {}

  int Run();

 private:
  enum class Next { kGoOn, kEnd };

  bool Receive(Frame* frame);
  Next Handle(const Frame& frame);
  DeviceFault Start(const Frame& frame);
  DeviceFault Copy(const Frame& frame, uint64_t id);
  Next Answer(uint64_t id, const DeviceFault& fault);
  Next LookAtEvents();

  struct Awaited {
    uint64_t id = 0;
    CUevent event = nullptr;
  };

  const int socket_;
  const std::string sysfs_;
  std::unique_ptr<DeviceContext> context_;
  std::list<Awaited> awaited_;
  std::deque<WorkerPin> pinning_;
  // Shared with calls of the driver, which may come while the process ends.
  std::shared_ptr<std::atomic<int64_t>> copies_ = std::make_shared<std::atomic<int64_t>>(0);
};

void Send(int socket, const WorkerReply& reply, int descriptor = -1) {
  while (SendPacket(socket, BytesOf(reply), descriptor) < 0 && errno == EINTR) {
  }
}

void Send(int socket, uint64_t id, const DeviceFault& fault, int descriptor = -1) {
  WorkerReply reply;
  reply.id = id;
  reply.error = fault.error;
  reply.fatal = fault.fatal() ? 1 : 0;
  fault.text.copy(reply.text, sizeof(reply.text) - 1);
  Send(socket, reply, descriptor);
}

// False: the daemon is gone.
bool Worker::Receive(Frame* frame) {
  frame->bytes.resize(kMaxWorkerFrameBytes);
  ssize_t got = 0;
  do {
    got = ReceivePacket(socket_, absl::MakeSpan(frame->bytes), &frame->descriptor);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  frame->bytes.resize(got);
  return true;
}

Worker::Next Worker::Answer(uint64_t id, const DeviceFault& fault) {
  Send(socket_, id, fault);
  return fault.fatal() ? Next::kEnd : Next::kGoOn;
}

DeviceFault Worker::Start(const Frame& frame) {
  WorkerStart start;
  struct stat info {};
  if (!frame.As(&start) || start.pin_bytes == 0 || fstat(frame.descriptor.get(), &info) != 0 ||
      static_cast<uint64_t>(info.st_size) < start.memory_bytes) {
    return {DeviceFault::kRefused, "a Start that is none"};
  }
  void* memory =
      mmap(nullptr, start.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, frame.descriptor.get(), 0);
  if (memory == MAP_FAILED) return {DeviceFault::kRefused, std::string("mmap of the pool: ") + strerror(errno)};
  madvise(memory, start.memory_bytes, MADV_DONTDUMP);
  return DeviceContext::Open(start.gpu, absl::MakeSpan(static_cast<std::byte*>(memory), start.memory_bytes),
                             start.pin_bytes, sysfs_, &context_);
}

DeviceFault Worker::Copy(const Frame& frame, uint64_t id) {
  WorkerCopy head;
  if (!frame.As(&head) || head.count > kMaxCopyRuns ||
      frame.bytes.size() != sizeof(head) + head.count * sizeof(WorkerCopyRun)) {
    return {DeviceFault::kRefused, "a Copy that is none"};
  }
  std::vector<WorkerCopyRun> runs(head.count);
  std::memcpy(static_cast<void*>(runs.data()), frame.bytes.data() + sizeof(head), head.count * sizeof(WorkerCopyRun));
  copies_->fetch_add(1);
  DeviceFault fault = context_->Copy(head.into_device != 0, runs, [socket = socket_, copies = copies_, id] {
    copies->fetch_sub(1);
    Send(socket, id, {});
  });
  if (!fault.ok()) copies_->fetch_sub(1);
  return fault;
}

Worker::Next Worker::Handle(const Frame& frame) {
  WorkerHeader header;
  if (!frame.As(&header)) return Next::kEnd;
  if (header.verb == WorkerVerb::kStart) {
    if (const DeviceFault fault = Start(frame); !fault.ok()) {
      (void)Answer(header.id, fault);
      return Next::kEnd;
    }
    const Nearness& nearness = context_->nearness();
    WorkerReply started{.id = header.id, .node = nearness.node};
    nearness.why_elsewhere.copy(started.text, sizeof(started.text) - 1);
    Send(socket_, started);
    return Next::kGoOn;
  }
  if (context_ == nullptr) return Next::kEnd;
  switch (header.verb) {
    case WorkerVerb::kMap: {
      WorkerMap map;
      if (!frame.As(&map)) return Next::kEnd;
      return Answer(header.id, context_->Map(map.mapping, map, frame.descriptor.get()));
    }
    case WorkerVerb::kUnmap: {
      WorkerUnmap unmap;
      if (!frame.As(&unmap)) return Next::kEnd;
      return Answer(header.id, context_->Unmap(unmap.mapping));
    }
    case WorkerVerb::kAllocate: {
      WorkerAllocate allocate;
      if (!frame.As(&allocate)) return Next::kEnd;
      storage::UniqueFd descriptor;
      const DeviceFault fault = context_->Allocate(allocate.size_bytes, &descriptor);
      Send(socket_, header.id, fault, fault.ok() ? descriptor.get() : -1);
      return fault.fatal() ? Next::kEnd : Next::kGoOn;
    }
    case WorkerVerb::kAwait: {
      WorkerAwait await;
      if (!frame.As(&await)) return Next::kEnd;
      Awaited awaited{.id = header.id};
      const DeviceFault fault = context_->OpenEvent(await.event, &awaited.event);
      if (!fault.ok()) return Answer(header.id, fault);
      awaited_.push_back(awaited);
      return Next::kGoOn;
    }
    case WorkerVerb::kCopy: {
      const DeviceFault fault = Copy(frame, header.id);
      return fault.ok() ? Next::kGoOn : Answer(header.id, fault);
    }
    case WorkerVerb::kPin: {
      WorkerPin pin;
      if (!frame.As(&pin)) return Next::kEnd;
      pinning_.push_back(pin);
      return Next::kGoOn;
    }
    case WorkerVerb::kForget: {
      WorkerForget forget;
      if (!frame.As(&forget)) return Next::kEnd;
      const auto found = std::find_if(awaited_.begin(), awaited_.end(),
                                      [&](const Awaited& each) { return each.id == forget.await; });
      if (found == awaited_.end()) return Next::kGoOn;  // answered meanwhile
      context_->CloseEvent(found->event);
      awaited_.erase(found);
      return Next::kGoOn;
    }
    case WorkerVerb::kPing:
      return Answer(header.id, {});
    case WorkerVerb::kStart:
      break;
  }
  return Next::kEnd;
}

Worker::Next Worker::LookAtEvents() {
  for (auto it = awaited_.begin(); it != awaited_.end();) {
    bool reached = false;
    const DeviceFault fault = context_->Reached(it->event, &reached);
    if (!reached) {
      ++it;
      continue;
    }
    if (Answer(it->id, fault) == Next::kEnd) return Next::kEnd;
    it = awaited_.erase(it);
  }
  return Next::kGoOn;
}

int Worker::Run() {
  for (;;) {
    pollfd look{.fd = socket_, .events = POLLIN, .revents = 0};
    // A copy that comes meanwhile waits for it, so nothing is pinned while copies are under way.
    const bool pins = !pinning_.empty() && copies_->load() == 0;
    const int64_t wait_ns = pins ? 0 : !awaited_.empty() ? kAwaitNs : kLookMs * 1'000'000L;
    const timespec limit{.tv_sec = 0, .tv_nsec = wait_ns};
    const int ready = ppoll(&look, 1, &limit, nullptr);
    if (ready > 0) {
      Frame frame;
      if (!Receive(&frame)) return 0;
      if (Handle(frame) == Next::kEnd) return 1;
    }
    if (LookAtEvents() == Next::kEnd) return 1;
    if (ready == 0 && pins) {
      WorkerPin& next = pinning_.front();
      context_->PinSome(&next.offset_bytes, &next.size_bytes);
      if (next.size_bytes == 0) pinning_.pop_front();
    }
    if (ready == 0 && context_ != nullptr && copies_->load() > 0) {
      // An error of a queued copy: CUDA calls nobody then.
      const DeviceFault fault = context_->Look();
      if (!fault.ok()) {
        Send(socket_, 0, fault);
        return 1;
      }
    }
  }
}

}  // namespace

int RunDeviceWorker(int socket_fd, const std::string& sysfs) {
  prctl(PR_SET_NAME, "keepstep-device");
  signal(SIGPIPE, SIG_IGN);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) signal(number, SIG_IGN);  // meant for the daemon, which ends it
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int status = Worker(socket_fd, sysfs).Run();
  // At once: destructors of a context that has met an error may hang.
  _exit(status);
}

std::string DescribeDriver() {
  std::string why;
  const cuda::Driver* driver = cuda::LoadDriver(&why);
  if (driver == nullptr) return why;
  int version = 0;
  if (driver->cuDriverGetVersion(&version) != CUDA_SUCCESS) return "a driver that does not answer";
  return "driver for CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace keepstep::daemon
