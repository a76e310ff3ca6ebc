// Devices with CUDA's driver: loads it at the first Find, and hands on to the parts.

#include "client/device/devices.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "client/device/contexts.h"
#include "client/device/copier.h"
#include "client/device/fences.h"
#include "client/device/finder.h"
#include "client/device/flight_words.h"
#include "client/device/gate_words.h"
#include "client/device/owned_table.h"
#include "client/device/sampler.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

struct Parts {
  explicit Parts(const cuda::Driver& driver)
      : cu(driver),
        contexts(driver),
        finder(driver, &contexts),
        fences(driver, &contexts),
        copier(driver, &fences),
        sampler_after_marks(driver, &fences),
        sampler_at_once(driver, nullptr),
        gate(driver, &contexts),
        flight(driver, &contexts) {}
  const cuda::Driver& cu;
  Contexts contexts;
  std::mutex finding;
  Finder finder;  // guarded by finding
  Fences fences;
  Copier copier;
  Sampler sampler_after_marks, sampler_at_once;  // two, as the first may have to wait for the GPU
  GateWords gate;
  FlightWordsWriter flight;
};

absl::Status NoMemoryRegistered() {
  return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED", "no GPU memory is registered");
}

// Room for `count` descriptors, and for as many again that are on their way, which the kernel counts too.
void RaiseDescriptorLimit(size_t count) {
  const rlim_t room = 2 * count + 64;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  std::error_code error;
  rlim_t open = 0;
  for (std::filesystem::directory_iterator each("/proc/self/fd", error), end; !error && each != end;
       each.increment(error))
    ++open;
  if (open + room <= limit.rlim_cur) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

CUresult ExportOne(const cuda::Driver& cu, const Allocation& piece, int* fd) {
  const InContext in(cu, reinterpret_cast<CUcontext>(piece.context));
  if (in.result() != CUDA_SUCCESS) return in.result();
  CUmemGenericAllocationHandle handle = 0;
  CUresult result = cu.cuMemRetainAllocationHandle(&handle, reinterpret_cast<void*>(piece.address));
  if (result != CUDA_SUCCESS) return result;
  result = cu.cuMemExportToShareableHandle(fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  (void)cu.cuMemRelease(handle);
  return result;
}

}  // namespace

struct Devices::Rep {
  std::mutex mu;
  std::unique_ptr<Parts> parts;  // guarded by mu; once there, stays

  Parts* get() {
    std::lock_guard lock(mu);
    return parts.get();
  }

  // Null: there is no driver, or it does not start; then `why` says so.
  Parts* Start(std::string* why) {
    std::lock_guard lock(mu);
    if (parts != nullptr) return parts.get();
    const cuda::Driver* const cu = cuda::LoadDriver(why);
    if (cu == nullptr) return nullptr;
    if (const CUresult result = cu->cuInit(0); result != CUDA_SUCCESS) {
      *why = absl::StrCat("CUDA does not start: ", cu->Describe(result));
      return nullptr;
    }
    parts = std::make_unique<Parts>(*cu);
    return parts.get();
  }
};

Devices::Devices()
    : rep_(std::make_unique<Rep>()), id_([] {
        static std::atomic<uint64_t> last{0};
        return ++last;
      }()) {}
Devices::~Devices() = default;

absl::StatusOr<std::vector<Allocation>> Devices::Find(absl::Span<const DeviceRange> ranges) {
  if (ranges.empty()) return std::vector<Allocation>();
  std::string why;
  Parts* const parts = rep_->Start(&why);
  if (parts == nullptr) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_SHARD",
                     absl::StrCat(ranges.front().fqn, ": is said to lie in GPU memory (KS_CUDA), but ", why),
                     "register");
  }
  std::lock_guard lock(parts->finding);
  return parts->finder.Find(ranges);
}

absl::StatusOr<std::string> Devices::GpuOf(int device) {
  std::string why;
  Parts* const parts = rep_->Start(&why);
  int count = 0;
  if (parts != nullptr) {
    const CUresult result = parts->cu.cuDeviceGetCount(&count);
    if (result != CUDA_SUCCESS) return DriverError(parts->cu, result, "counting this process's GPUs");
  }
  if (device >= 0 && device < count) return parts->contexts.Uuid(device);
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                   parts == nullptr ? absl::StrCat("there is no GPU: ", why)
                                    : absl::StrCat("GPU ", device, " is none of this process's ", count));
}

absl::StatusOr<uint64_t> Devices::MapOwned(const OwnedPiece& piece, UniqueFd descriptor) {
  Parts* const parts = rep_->get();
  if (parts == nullptr) return NoMemoryRegistered();
  auto gpu = parts->contexts.Uuid(piece.device);
  if (!gpu.ok()) return gpu.status();
  return OwnedTable::Get().Map(parts->cu, *std::move(gpu), piece, std::move(descriptor));
}

absl::StatusOr<std::vector<UniqueFd>> Devices::Export(absl::Span<const Allocation* const> pieces) {
  Parts* const parts = rep_->get();
  if (parts == nullptr) return NoMemoryRegistered();
  RaiseDescriptorLimit(pieces.size());
  std::vector<UniqueFd> fds;
  for (const Allocation* piece : pieces) {
    if (UniqueFd owned = OwnedTable::Get().Export(piece->address); owned.valid()) {
      fds.push_back(std::move(owned));
      continue;
    }
    int fd = -1;
    if (const CUresult result = ExportOne(parts->cu, *piece, &fd); result != CUDA_SUCCESS) {
      return DriverError(
          parts->cu, result,
          absl::StrCat("a descriptor of ", piece->size_bytes, " bytes of GPU ", piece->device));
    }
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    fds.emplace_back(fd);
  }
  return fds;
}

absl::Status Devices::Mark(absl::Span<const Allocation> allocations, absl::Span<void* const> streams,
                           bool daemon_maps, v1::SaveRequest* request) {
  if (allocations.empty()) return absl::OkStatus();
  Parts* const parts = rep_->get();
  return parts == nullptr ? NoMemoryRegistered()
                          : parts->fences.Mark(allocations, streams, daemon_maps, request);
}

absl::StatusOr<bool> Devices::FollowGate(void* stream, uint32_t group, uint64_t number) {
  Parts* const parts = rep_->get();
  if (parts == nullptr) return false;
  return parts->gate.Follow(static_cast<CUstream>(stream), group, number);
}

void Devices::RaiseGate(uint32_t group, uint64_t number) {
  if (Parts* const parts = rep_->get(); parts != nullptr) parts->gate.Raise(group, number);
}

absl::Status Devices::WriteFlightWord(void* stream, int device, proto::FlightWords* page, size_t offset_bytes,
                                      uint32_t value) {
  Parts* const parts = rep_->get();
  return parts == nullptr
             ? NoMemoryRegistered()
             : parts->flight.Write(static_cast<CUstream>(stream), device, page, offset_bytes, value);
}

void Devices::UnpinFlightWords() {
  if (Parts* const parts = rep_->get(); parts != nullptr) parts->flight.Unpin();
}

absl::Status Devices::Synchronize(absl::Span<const Allocation> allocations) {
  Parts* const parts = rep_->get();
  if (parts == nullptr) return absl::OkStatus();
  std::set<uint64_t> done;
  for (const Allocation& allocation : allocations) {
    if (!done.insert(allocation.context).second) continue;
    const InContext in(parts->cu, reinterpret_cast<CUcontext>(allocation.context));
    const CUresult result = in.result() == CUDA_SUCCESS ? parts->cu.cuCtxSynchronize() : in.result();
    if (result != CUDA_SUCCESS)
      return DriverError(parts->cu, result, absl::StrCat("waiting for GPU ", allocation.device));
  }
  return absl::OkStatus();
}

int Devices::Copy(absl::Span<const proto::CopyEntry> entries, absl::Span<const Allocation> allocations,
                  bool into_client, std::byte* window, size_t window_bytes) {
  Parts* const parts = rep_->get();
  return parts == nullptr ? EFAULT
                          : parts->copier.Copy(entries, allocations, into_client, window, window_bytes);
}

absl::Status Devices::ReadSamples(absl::Span<const DeviceSample> samples, absl::Span<const Allocation> allocations,
                                  bool after_marks, std::byte* into) {
  if (samples.empty()) return absl::OkStatus();
  Parts* const parts = rep_->get();
  if (parts == nullptr) return NoMemoryRegistered();
  Sampler& sampler = after_marks ? parts->sampler_after_marks : parts->sampler_at_once;
  const CUresult result = sampler.Read(samples, allocations, into);
  return result == CUDA_SUCCESS ? absl::OkStatus()
                                : DriverError(parts->cu, result, "sampling tensors in GPU memory");
}

void Devices::ForgetWindow() {
  if (Parts* const parts = rep_->get(); parts != nullptr) parts->copier.ForgetWindow();
}

}  // namespace keepstep::client
