// The GPU memory of one client, as this process's CUDA driver knows it.
//
// Nothing here touches CUDA before the first Find: a process that registers no GPU memory never loads its
// driver. Two sources implement it, one of which the build chooses: devices.cc, and no_cuda.cc where CUDA's
// headers are missing.
//
// Every call works in the context that the memory belongs to, and leaves the calling thread's context as it
// was.

#ifndef KEEPSTEP_CLIENT_DEVICE_DEVICES_H_
#define KEEPSTEP_CLIENT_DEVICE_DEVICES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/device/allocation.h"
#include "client/unique_fd.h"
#include "proto/flight_record.h"
#include "proto/handoff.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

struct OwnedPiece {
  int device = 0;
  uint64_t size_bytes = 0;
  bool writable = true;  // false: until MakeWritable
  OwnedBy owned;
};

// Lets GPU work write the pieces of `client` that were mapped for reading. ABORTED (DEVICE_ERROR).
absl::Status MakeOwnedWritable(uint64_t client);
// Unmaps what begins at `address`, once the GPU has done what is queued; nothing may use it any more. INVALID_ARGUMENT (BAD_ARGUMENT): no piece does.
absl::StatusOr<OwnedPiece> UnmapOwned(uint64_t address);

// Thread-safe.
class Devices {
 public:
  Devices();
  ~Devices();

  uint64_t id() const { return id_; }  // no other of this process, before or after, has it

  // The allocations that `ranges` lie in, each once, in the order of their addresses, by asking the driver
  // for each of them. Handles of allocations that are still the same are those of the last call.
  // INVALID_ARGUMENT (BAD_SHARD): no driver, or memory that is not a GPU's; the message names the tensor.
  absl::StatusOr<std::vector<Allocation>> Find(absl::Span<const DeviceRange> ranges);

  // A descriptor of each of some kVmm allocations, to be sent and closed. Raises this process's limit of open
  // descriptors to what it may be when there is little room. ABORTED (DEVICE_ERROR): the driver refuses, or
  // the memory is gone.
  absl::StatusOr<std::vector<UniqueFd>> Export(absl::Span<const Allocation* const> pieces);

  // The UUID of this process's GPU `device`, 16 bytes. INVALID_ARGUMENT (BAD_ARGUMENT): no driver, or no such GPU.
  // ABORTED (DEVICE_ERROR): the driver does not say.
  absl::StatusOr<std::string> GpuOf(int device);

  // For save `request->number()`: marks, in stream order, the point that the memory must be copied after: on each stream of `streams`,
  // where 0, 1 and 2 are CUDA's default streams of every context that `allocations` name, and on the default
  // stream of contexts for which no stream is named. Adds to `request` a fence for each that guards memory
  // which the daemon maps. `daemon_maps`: where events cannot cross processes, blocks until such streams are
  // done instead. INVALID_ARGUMENT (BAD_ARGUMENT): no stream. ABORTED (DEVICE_ERROR): the driver failed.
  absl::Status Mark(absl::Span<const Allocation> allocations, absl::Span<void* const> streams,
                    bool daemon_maps, v1::SaveRequest* request);

  // The gate in stream order, as GateWords has it. False also: there is no GPU memory.
  absl::StatusOr<bool> FollowGate(void* stream, uint32_t group, uint64_t number);
  void RaiseGate(uint32_t group, uint64_t number);

  // The update sequence in stream order, as FlightWordsWriter has it. FAILED_PRECONDITION also: there is no GPU memory.
  absl::Status WriteFlightWord(void* stream, int device, proto::FlightWords* page, size_t offset_bytes,
                               uint32_t value);
  void UnpinFlightWords();

  // Blocks until everything that was queued on the contexts of `allocations` is done.
  absl::Status Synchronize(absl::Span<const Allocation> allocations);

  // Copies between GPU memory and the window, at `window` of `window_bytes`, and returns when the bytes are
  // there. Out of the GPU: after what Mark marked last. 0 or an errno. One thread at a time.
  int Copy(absl::Span<const proto::CopyEntry> entries, absl::Span<const Allocation> allocations,
           bool into_client, std::byte* window, size_t window_bytes);

  // Maps `descriptor`, VMM memory of `piece.size_bytes` bytes on GPU `piece.device`, and returns its address. Find
  // knows it by `piece.owned` from then on. ABORTED (DEVICE_ERROR): the driver refuses.
  absl::StatusOr<uint64_t> MapOwned(const OwnedPiece& piece, UniqueFd descriptor);

  // Reads samples of GPU memory, kDeviceSampleBytes apart, and returns when they are there; what is beyond a shorter one
  // is unspecified. `after_marks`: after what Mark has marked so far, which may be long; else at once, whatever other
  // threads wait for here. ABORTED (DEVICE_ERROR): the driver failed.
  absl::Status ReadSamples(absl::Span<const DeviceSample> samples, absl::Span<const Allocation> allocations,
                           bool after_marks, std::byte* into);

  // The window is about to be unmapped. By the thread that called Copy.
  void ForgetWindow();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
  const uint64_t id_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_DEVICES_H_
