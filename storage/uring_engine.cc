// Spreads operations over rings.

#include "storage/uring_engine.h"

#include <utility>

#include "storage/uring_ring.h"

namespace keepstep::storage {

absl::StatusOr<std::unique_ptr<UringEngine>> UringEngine::Start(int threads, int depth, size_t max_queued) {
  std::vector<std::unique_ptr<UringRing>> rings;
  for (int i = 0; i < threads; ++i) {
    absl::StatusOr<std::unique_ptr<UringRing>> ring = UringRing::Start(depth, max_queued);
    if (!ring.ok()) return ring.status();
    rings.push_back(*std::move(ring));
  }
  return std::unique_ptr<UringEngine>(new UringEngine(std::move(rings)));
}

UringEngine::UringEngine(std::vector<std::unique_ptr<UringRing>> rings)
    : rings_(std::move(rings)), mode_(rings_.front()->mode()) {}

UringEngine::~UringEngine() {
  // A `done` that still runs may look at any ring, so all stop before the first one goes.
  for (const std::unique_ptr<UringRing>& ring : rings_) ring->Stop();
}

void UringEngine::Submit(IoOp op) {
  // A ring's own thread keeps what it submits: when the engine stops, another ring may have left already.
  for (const std::unique_ptr<UringRing>& ring : rings_) {
    if (ring->IsOwnThread()) return ring->Submit(std::move(op));
  }
  rings_[next_.fetch_add(1, std::memory_order_relaxed) % rings_.size()]->Submit(std::move(op));
}

}  // namespace keepstep::storage
