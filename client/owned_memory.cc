#include "client/owned_memory.h"

#include <utility>

#include "client/failure.h"
#include "client/stop_flag.h"

namespace keepstep::client {

absl::StatusOr<uint64_t> OwnedMemory::Allocate(int device, int64_t size_bytes, Deadline deadline) {
  auto gpu = devices_->GpuOf(device);
  if (!gpu.ok()) return gpu.status();
  std::lock_guard lock(mu_);
  v1::AllocateRequest request;
  request.set_gpu(*std::move(gpu));
  request.set_ordinal(ordinals_[device] + 1);
  request.set_size_bytes(size_bytes);
  StopFlag never;
  while (true) {
    bool refused = false;
    auto address = TryAllocate(request, device, deadline, &refused);
    if (address.ok() || !OutcomeUnknown(address.status()) || Expired(deadline)) {
      // One that was refused is not used up: a program that makes room and asks again has the order of one with room.
      if (!refused) ordinals_[device] = request.ordinal();
      return address;
    }
    never.Wait(RemainingMs(deadline, limits_.backoff_first_ms));
  }
}

absl::StatusOr<uint64_t> OwnedMemory::TryAllocate(const v1::AllocateRequest& request, int device, Deadline deadline,
                                                  bool* refused) {
  auto connection = session_->AwaitConnection(deadline);
  if (!connection.ok()) return connection.status();
  v1::AllocateResponse response;
  if (absl::Status status = connection->channel->Allocate(request, deadline, &response); !status.ok()) {
    *refused = !OutcomeUnknown(status);
    return status;
  }
  const HandoffClient& daemon = *connection->handoff;
  auto descriptor = FetchMemory(session_->address().handoff_path, daemon.token_hex(), request.gpu(), request.ordinal(),
                                deadline);
  if (!descriptor.ok()) return descriptor.status();
  const OwnedPiece piece{.device = device,
                         .size_bytes = static_cast<uint64_t>(response.size_bytes()),
                         .writable = !response.kept(),
                         .owned = {.client = devices_->id(),
                                   .daemon_pid = daemon.daemon_pid(),
                                   .ordinal = request.ordinal()}};
  auto address = devices_->MapOwned(piece, *std::move(descriptor));
  if (!address.ok()) GiveBack(*connection, request.gpu(), request.ordinal(), deadline);
  return address;
}

absl::Status OwnedMemory::Free(uint64_t address, Deadline deadline) {
  auto piece = UnmapOwned(address);
  if (!piece.ok()) return piece.status();
  if (piece->owned.client != devices_->id()) return absl::OkStatus();
  auto gpu = devices_->GpuOf(piece->device);
  if (!gpu.ok()) return gpu.status();
  auto connection = session_->AwaitConnection(After(0));
  if (connection.ok() && connection->handoff->daemon_pid() == piece->owned.daemon_pid)
    GiveBack(*connection, *gpu, piece->owned.ordinal, deadline);
  return absl::OkStatus();
}

// A daemon that does not hear it frees the memory with the session.
void OwnedMemory::GiveBack(const Session::Connection& connection, const std::string& gpu, uint64_t ordinal,
                           Deadline deadline) {
  v1::FreeRequest request;
  request.set_gpu(gpu);
  request.set_ordinal(ordinal);
  connection.channel->Free(request, deadline).IgnoreError();
}

}  // namespace keepstep::client
