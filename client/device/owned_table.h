// The memory of daemons that this process has mapped, by address.
//
// It is the process's, not a client's: tensors that lie there outlive the client that they came from. Nothing unmaps it
// but Unmap and the process's end, and the GPU's primary context is held for as long.

#ifndef KEEPSTEP_CLIENT_DEVICE_OWNED_TABLE_H_
#define KEEPSTEP_CLIENT_DEVICE_OWNED_TABLE_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/device/contexts.h"
#include "client/device/devices.h"

namespace keepstep::client {

// Thread-safe.
class OwnedTable {
 public:
  // Of the process; lives as long as it does.
  static OwnedTable& Get();

  // `gpu`: the UUID of the piece's. As Devices::MapOwned says.
  absl::StatusOr<uint64_t> Map(const cuda::Driver& cu, std::string gpu, const OwnedPiece& piece, UniqueFd descriptor);
  absl::StatusOr<OwnedPiece> Unmap(uint64_t address);
  absl::Status MakeWritable(uint64_t client);

  // The piece that `address` lies in, as Finder answers.
  std::optional<Allocation> Find(uint64_t address) const;
  // A descriptor of the piece at `address`; not valid: there is none, or no descriptor is left.
  UniqueFd Export(uint64_t address) const;

 private:
  struct Mapped {
    const cuda::Driver* cu = nullptr;
    OwnedPiece piece;
    Allocation found;
    CUmemGenericAllocationHandle handle = 0;
    UniqueFd descriptor;  // for a daemon that does not have it
  };

  absl::StatusOr<CUcontext> ContextOf(const cuda::Driver& cu, int device);
  static CUresult SetAccess(const Mapped& mapped, bool writable);

  mutable std::mutex mu_;
  std::map<uint64_t, Mapped> mapped_;  // guarded by mu_
  std::map<int, CUcontext> contexts_;  // guarded by mu_; primary, by device, held
  uint64_t last_id_ = 0;               // guarded by mu_
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_OWNED_TABLE_H_
