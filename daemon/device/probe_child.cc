// The child of a probe (exporter_probe.h): allocates, writes the pattern, exports, and waits to be killed.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "daemon/device/packet.h"
#include "daemon/device/probe_protocol.h"
#include "daemon/device/worker.h"
#include "third_party/cuda_driver/cuda_driver.h"

namespace keepstep::daemon {
namespace {

class Exporter {
 public:
  explicit Exporter(const ProbeAsk& ask) : ask_(ask) {}

  // Fills `offer` and `descriptor`; what fails is said in `offer`.
  void Export(ProbeOffer* offer, int* descriptor) {
    std::string why;
    cu_ = cuda::LoadDriver(&why);
    if (cu_ == nullptr) {
      offer->error = -1;
      why.copy(offer->text, sizeof(offer->text) - 1);
      return;
    }
    offer_ = offer;
    if (!Check(cu_->cuInit(0), "cuInit") || !FindDevice()) return;
    CUcontext primary = nullptr;
    if (!Check(cu_->cuDevicePrimaryCtxRetain(&primary, device_), "cuDevicePrimaryCtxRetain") ||
        !Check(cu_->cuCtxSetCurrent(primary), "cuCtxSetCurrent")) {
      return;
    }
    const bool allocated = ask_.kind == HandleKind::kIpc ? Allocate() : Create(descriptor);
    if (allocated) Fill();
  }

 private:
  bool Check(CUresult result, const char* what) {
    if (result == CUDA_SUCCESS) return true;
    offer_->error = static_cast<int32_t>(result);
    (std::string(what) + ": " + cu_->Describe(result)).copy(offer_->text, sizeof(offer_->text) - 1);
    return false;
  }

  bool FindDevice() {
    int count = 0;
    if (!Check(cu_->cuDeviceGetCount(&count), "cuDeviceGetCount")) return false;
    for (int ordinal = 0; ordinal < count; ++ordinal) {
      CUuuid uuid{};
      if (!Check(cu_->cuDeviceGet(&device_, ordinal), "cuDeviceGet") ||
          !Check(cu_->cuDeviceGetUuid(&uuid, device_), "cuDeviceGetUuid"))
        return false;
      if (std::memcmp(uuid.bytes, ask_.gpu.data(), ask_.gpu.size()) == 0) return true;
    }
    offer_->error = -1;
    std::strncpy(offer_->text, "the driver shows no GPU of this UUID", sizeof(offer_->text) - 1);
    return false;
  }

  bool Allocate() {
    CUipcMemHandle handle;
    if (!Check(cu_->cuMemAlloc(&memory_, kProbeBytes), "cuMemAlloc") ||
        !Check(cu_->cuIpcGetMemHandle(&handle, memory_), "cuIpcGetMemHandle"))
      return false;
    std::memcpy(offer_->ipc.data(), &handle, sizeof(handle));
    offer_->size_bytes = kProbeBytes;
    return true;
  }

  bool Create(int* descriptor) {
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
    properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    size_t granularity = 0;
    if (!Check(cu_->cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cuMemGetAllocationGranularity"))
      return false;
    const size_t size_bytes = (kProbeBytes + granularity - 1) / granularity * granularity;
    CUmemGenericAllocationHandle handle = 0;
    const CUmemAccessDesc access{.location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    offer_->size_bytes = size_bytes;
    return Check(cu_->cuMemCreate(&handle, size_bytes, &properties, 0), "cuMemCreate") &&
           Check(cu_->cuMemAddressReserve(&memory_, size_bytes, 0, 0, 0), "cuMemAddressReserve") &&
           Check(cu_->cuMemMap(memory_, size_bytes, 0, handle, 0), "cuMemMap") &&
           Check(cu_->cuMemSetAccess(memory_, size_bytes, &access, 1), "cuMemSetAccess") &&
           Check(cu_->cuMemExportToShareableHandle(descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                 "cuMemExportToShareableHandle");
  }

  void Fill() {
    std::vector<uint64_t> pattern(kProbeBytes / sizeof(uint64_t));
    for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = ProbeWord(ask_.seed, i);
    if (Check(cu_->cuMemcpyHtoDAsync(memory_, pattern.data(), kProbeBytes, nullptr), "cuMemcpyHtoDAsync"))
      (void)Check(cu_->cuCtxSynchronize(), "cuCtxSynchronize");
  }

  const ProbeAsk ask_;
  const cuda::Driver* cu_ = nullptr;
  ProbeOffer* offer_ = nullptr;
  CUdevice device_ = 0;
  CUdeviceptr memory_ = 0;
};

void Send(int socket, const ProbeOffer& offer, int descriptor) {
  while (SendPacket(socket, BytesOf(offer), descriptor) < 0 && errno == EINTR) {
  }
}

}  // namespace

int RunDeviceProbe(int socket_fd) {
  prctl(PR_SET_NAME, "keepstep-probe");
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) signal(number, SIG_IGN);  // meant for the daemon, which ends it
  ProbeAsk ask;
  if (recv(socket_fd, &ask, sizeof(ask), 0) != sizeof(ask)) return 1;
  ProbeOffer offer;
  int descriptor = -1;
  Exporter(ask).Export(&offer, &descriptor);
  Send(socket_fd, offer, descriptor);
  char never = 0;
  while (recv(socket_fd, &never, 1, 0) < 0 && errno == EINTR) {
  }
  _exit(0);  // at once, as it would be killed
}

}  // namespace keepstep::daemon
