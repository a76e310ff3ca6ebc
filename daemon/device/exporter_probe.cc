#include "daemon/device/exporter_probe.h"

#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/child_process.h"
#include "daemon/device/packet.h"
#include "daemon/error.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

const char* PathOf(HandleKind kind) { return kind == HandleKind::kIpc ? "ipc" : "vmm"; }

absl::Status DoesNot(const GpuUuid& gpu, HandleKind kind, absl::string_view why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "PROBE_FAILED",
                   absl::StrCat("memory of ", GpuName(gpu), " by ", PathOf(kind), " does not outlive its process here: ", why),
                   "rescue");
}

// The child that exports; killed, and gone, at the end at the latest.
class Exporter {
 public:
  ~Exporter() { Kill(); }

  absl::Status Start(const std::string& program) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      return absl::ResourceExhaustedError(absl::StrCat("socketpair: ", strerror(errno)));
    socket_ = storage::UniqueFd(ends[0]);
    const storage::UniqueFd of_child(ends[1]);
    auto pid = SpawnChild({program, kProbeFlag}, of_child.get(), kWorkerSocketFd);
    if (!pid.ok()) return pid.status();
    pid_ = *pid;
    return absl::OkStatus();
  }

  absl::Status Export(const ProbeAsk& ask, std::chrono::milliseconds limit, ProbeOffer* offer,
                      storage::UniqueFd* descriptor) {
    if (send(socket_.get(), &ask, sizeof(ask), MSG_NOSIGNAL) != sizeof(ask))
      return absl::UnavailableError("the probe's process ended at once");
    pollfd answer{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    if (poll(&answer, 1, static_cast<int>(limit.count())) != 1)
      return absl::DeadlineExceededError("the probe's process does not answer");
    if (ReceivePacket(socket_.get(), BytesInto(offer), descriptor) != sizeof(*offer))
      return absl::UnavailableError("the probe's process ended");
    offer->text[sizeof(offer->text) - 1] = '\0';
    return absl::OkStatus();
  }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }

 private:
  storage::UniqueFd socket_;
  pid_t pid_ = -1;
};

}  // namespace

absl::Status ProbeExporter(const DeviceWorkerSpec& spec, const GpuUuid& gpu, HandleKind kind,
                           absl::Span<std::byte> into, int64_t into_offset_bytes) {
  auto worker = DeviceWorker::Start(spec, gpu);
  if (!worker.ok()) return absl::UnavailableError(absl::StrCat("crash flush was not probed: ", worker.status().message()));
  Exporter exporter;
  if (absl::Status status = exporter.Start(spec.command[0]); !status.ok()) return status;
  ProbeAsk ask{.gpu = gpu, .kind = kind};
  if (getrandom(&ask.seed, sizeof(ask.seed), 0) != sizeof(ask.seed)) return absl::UnavailableError("getrandom");
  ProbeOffer offer;
  storage::UniqueFd descriptor;
  if (absl::Status status = exporter.Export(ask, spec.start_limit, &offer, &descriptor); !status.ok()) return status;
  if (offer.error != 0) return DoesNot(gpu, kind, offer.text);
  MemoryHandle handle{.kind = kind, .ipc = offer.ipc, .size_bytes = static_cast<int64_t>(offer.size_bytes)};
  if (kind == HandleKind::kDescriptor)
    handle.descriptor = std::make_shared<const storage::UniqueFd>(std::move(descriptor));
  constexpr uint64_t kMapping = 1;
  if (absl::Status status = (*worker)->Map(kMapping, handle, /*writable=*/false); !status.ok())
    return DoesNot(gpu, kind, status.message());
  handle = {};
  exporter.Kill();
  std::memset(into.data(), 0, into.size());
  const WorkerCopyRun run{.mapping = kMapping,
                          .host_offset_bytes = static_cast<uint64_t>(into_offset_bytes),
                          .size_bytes = kProbeBytes};
  if (absl::Status status = (*worker)->Copy(/*into_device=*/false, absl::MakeConstSpan(&run, 1)); !status.ok())
    return DoesNot(gpu, kind, status.message());
  for (size_t i = 0; i < kProbeBytes / sizeof(uint64_t); ++i) {
    uint64_t word = 0;
    std::memcpy(&word, into.data() + i * sizeof(word), sizeof(word));
    if (word != ProbeWord(ask.seed, i)) return DoesNot(gpu, kind, "what is read through its mapping is not what it wrote");
  }
  (*worker)->Unmap(kMapping).IgnoreError();
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
