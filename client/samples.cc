// A run is sampled as eight pieces of eight bytes spread over its whole length, or whole when it is no longer
// than a sample: sparse updates (embedding rows) leave most of a tensor as it was.

#include "client/samples.h"

#include <algorithm>
#include <cstring>

namespace keepstep::client {
namespace {

constexpr int64_t kPieceBytes = 8;
constexpr int64_t kPieces = kSampleBytes / kPieceBytes;

size_t SampleSize(const SampledRun& run) { return std::min<int64_t>(run.size_bytes, kSampleBytes); }

void TakeOne(const SampledRun& run, std::byte* into) {
  if (run.size_bytes <= kSampleBytes) {
    if (run.size_bytes > 0) std::memcpy(into, run.data, run.size_bytes);
    return;
  }
  for (int64_t i = 0; i < kPieces; ++i) {
    const int64_t offset_bytes = (run.size_bytes - kPieceBytes) / (kPieces - 1) * i;
    std::memcpy(into + i * kPieceBytes, run.data + offset_bytes, kPieceBytes);
  }
}

}  // namespace

void LimitPlan(SamplePlan* plan) {
  for (auto& [group, runs] : *plan) {
    if (runs.size() <= kMaxSampledTensors) continue;
    std::vector<SampledRun> kept;
    for (size_t i = 0; i < kMaxSampledTensors; ++i)
      kept.push_back(runs[i * runs.size() / kMaxSampledTensors]);
    runs = std::move(kept);
  }
}

std::vector<std::byte> TakeSamples(const std::vector<SampledRun>& runs) {
  std::vector<std::byte> samples(runs.size() * kSampleBytes);
  for (size_t i = 0; i < runs.size(); ++i) TakeOne(runs[i], samples.data() + i * kSampleBytes);
  return samples;
}

std::string FindChanged(const std::vector<SampledRun>& runs, const std::vector<std::byte>& before) {
  std::byte now[kSampleBytes];
  for (size_t i = 0; i < runs.size(); ++i) {
    TakeOne(runs[i], now);
    if (std::memcmp(now, before.data() + i * kSampleBytes, SampleSize(runs[i])) != 0) return runs[i].fqn;
  }
  return "";
}

}  // namespace keepstep::client
