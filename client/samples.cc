// A run is sampled as up to eight pieces spread over its whole length, 64 bytes together, or whole when it is no longer
// than that: sparse updates (embedding rows) leave most of a tensor as it was. Each piece is a page that no cache and no
// TLB knows after a training step, some 0.1 µs, and the trainer stands still for all of them: so their number is limited,
// and the larger tensors have more of them.

#include "client/samples.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace keepstep::client {
namespace {

constexpr size_t kAhead = 8;  // runs

size_t SampleSize(const SampledRun& run) { return std::min<int64_t>(run.size_bytes, kSampleBytes); }

int64_t PieceBytes(const SampledRun& run) { return kSampleBytes / run.pieces; }

// In the middle of its share of the run.
int64_t PieceOffset(const SampledRun& run, int64_t piece) {
  const int64_t middle = (2 * piece + 1) * (run.size_bytes / (2 * run.pieces));
  return std::min(middle / PieceBytes(run) * PieceBytes(run), run.size_bytes - PieceBytes(run));
}

void TakeOne(const SampledRun& run, std::byte* into) {
  if (run.size_bytes <= kSampleBytes) {
    if (run.size_bytes > 0) std::memcpy(into, run.data, run.size_bytes);
    return;
  }
  for (int64_t i = 0; i < run.pieces; ++i)
    std::memcpy(into + i * PieceBytes(run), run.data + PieceOffset(run, i), PieceBytes(run));
}

// Nothing of a run is in a cache: the memory's latency is paid once for many pieces, not for each.
void Prefetch(const SampledRun& run) {
  if (run.size_bytes <= kSampleBytes) {
    __builtin_prefetch(run.data);
    return;
  }
  for (int64_t i = 0; i < run.pieces; ++i) __builtin_prefetch(run.data + PieceOffset(run, i));
}

// One piece for each run, and the rest of kMaxPieces by size.
void ShareOutPieces(SamplePlan* plan) {
  int64_t runs_in_all = 0;
  double bytes_in_all = 1;  // at least
  for (const auto& [group, runs] : *plan) {
    for (const SampledRun& run : runs) {
      ++runs_in_all;
      bytes_in_all += static_cast<double>(run.size_bytes);
    }
  }
  const auto spare = static_cast<double>(std::max<int64_t>(0, kMaxPieces - runs_in_all));
  for (auto& [group, runs] : *plan) {
    for (SampledRun& run : runs) {
      const double share = 1 + spare * static_cast<double>(run.size_bytes) / bytes_in_all;
      run.pieces = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::min<double>(share, kPiecesOfARun))));
    }
  }
}

template <typename Plan>
void Limit(Plan* plan) {
  size_t total = 0;
  for (const auto& [group, runs] : *plan) total += runs.size();
  if (total <= kMaxSampledTensors) return;
  for (auto& [group, runs] : *plan) {
    if (runs.empty()) continue;
    const size_t share = std::max<size_t>(1, runs.size() * kMaxSampledTensors / total);
    typename Plan::mapped_type kept;
    for (size_t i = 0; i < share; ++i) kept.push_back(runs[i * runs.size() / share]);
    runs = std::move(kept);
  }
}

}  // namespace

void LimitPlan(SamplePlan* plan) {
  Limit(plan);
  ShareOutPieces(plan);
}

void LimitPlan(DeviceSamplePlan* plan) { Limit(plan); }

DeviceSample SampleOf(std::string fqn, uint64_t address, int64_t size_bytes, uint32_t buffer) {
  const int64_t take_bytes = std::min<int64_t>(size_bytes, kDeviceSampleBytes);
  return {.fqn = std::move(fqn),
          .address = address + static_cast<uint64_t>(size_bytes - take_bytes) / 2,
          .size_bytes = static_cast<uint32_t>(take_bytes),
          .buffer = buffer};
}

std::vector<std::byte> TakeSamples(const std::vector<SampledRun>& runs) {
  std::vector<std::byte> samples(runs.size() * kSampleBytes);
  for (size_t i = 0; i < std::min(kAhead, runs.size()); ++i) Prefetch(runs[i]);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i + kAhead < runs.size()) Prefetch(runs[i + kAhead]);
    TakeOne(runs[i], samples.data() + i * kSampleBytes);
  }
  return samples;
}

std::string FindChanged(const std::vector<SampledRun>& runs, const std::vector<std::byte>& before) {
  std::byte now[kSampleBytes];
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i + kAhead < runs.size()) Prefetch(runs[i + kAhead]);
    TakeOne(runs[i], now);
    if (std::memcmp(now, before.data() + i * kSampleBytes, SampleSize(runs[i])) != 0) return runs[i].fqn;
  }
  return "";
}

}  // namespace keepstep::client
