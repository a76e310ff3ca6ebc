// Moves boxes between a trainer's memory and their packed bytes in staging, as few vectored calls as it
// can.
//
// Runs of many small tensors go together in one call. Where runs are tiny (a transposed parameter), the
// bytes move in the order of the trainer's memory through a scratch array, and are put in their places
// here.

#ifndef KEEPSTEP_DAEMON_BOX_MOVER_H_
#define KEEPSTEP_DAEMON_BOX_MOVER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "daemon/memory_port.h"
#include "reshard/box.h"
#include "reshard/tensor.h"

namespace keepstep::daemon {

enum class Direction { kFromTrainer, kToTrainer };

// Where a box lies in the trainer: `local` counts from `address`.
struct TrainerBox {
  const reshard::LocalBox* local = nullptr;
  uint64_t address = 0;
  int64_t item_size_bytes = 1;
};

// One use of one thread. `port` and `cancel` outlive it. Bytes have moved after Flush.
class BoxMover {
 public:
  BoxMover(MemoryPort& port, Direction direction, Cancellation& cancel)
      : port_(port), direction_(direction), cancel_(cancel) {}

  // `region` of the box; `packed` says where the same box lies from `base` on.
  absl::Status Move(const reshard::Box& region, const TrainerBox& trainer, const reshard::LocalBox& packed,
                    std::byte* base);

  // Bytes [begin, end) of the box's packed form; byte `begin` lies at `at`. Elements may be cut.
  absl::Status MoveBytes(int64_t begin_bytes, int64_t end_bytes, const TrainerBox& trainer, std::byte* at);

  absl::Status Flush();

 private:
  absl::Status MoveThroughScratch(const reshard::Box& region, const TrainerBox& trainer,
                                  const reshard::LocalBox& scratch, const reshard::LocalBox& packed,
                                  std::byte* base);
  absl::Status Call(const std::vector<MemoryRun>& runs);

  MemoryPort& port_;
  const Direction direction_;
  Cancellation& cancel_;
  std::vector<MemoryRun> runs_;
  std::vector<std::byte> scratch_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_BOX_MOVER_H_
