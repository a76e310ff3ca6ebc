// A run is sampled as eight pieces of eight bytes spread over its whole length, or whole when it is no longer
// than a sample: sparse updates (embedding rows) leave most of a tensor as it was.

#include "client/samples.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace keepstep::client {
namespace {

constexpr int64_t kPieceBytes = 8;
constexpr int64_t kPieces = kSampleBytes / kPieceBytes;
constexpr size_t kAhead = 8;  // runs

size_t SampleSize(const SampledRun& run) { return std::min<int64_t>(run.size_bytes, kSampleBytes); }

int64_t PieceOffset(const SampledRun& run, int64_t piece) {
  return (run.size_bytes - kPieceBytes) / (kPieces - 1) * piece;
}

void TakeOne(const SampledRun& run, std::byte* into) {
  if (run.size_bytes <= kSampleBytes) {
    if (run.size_bytes > 0) std::memcpy(into, run.data, run.size_bytes);
    return;
  }
  for (int64_t i = 0; i < kPieces; ++i)
    std::memcpy(into + i * kPieceBytes, run.data + PieceOffset(run, i), kPieceBytes);
}

// Nothing of a run is in a cache: the memory's latency is paid once for many pieces, not for each.
void Prefetch(const SampledRun& run) {
  if (run.size_bytes <= kSampleBytes) {
    __builtin_prefetch(run.data);
    return;
  }
  for (int64_t i = 0; i < kPieces; ++i) __builtin_prefetch(run.data + PieceOffset(run, i));
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

void LimitPlan(SamplePlan* plan) { Limit(plan); }

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
