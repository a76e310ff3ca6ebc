// Samples of registered tensors, that catch an update which ignored the gate. Those in host memory are read here; those
// in GPU memory by the daemon, or, where they go through the window, by window_samples.h.
//
// Up to 64 bytes of each of some 1,024 tensors are kept when a save is issued and compared when the group is released, in
// one to eight places of each tensor. A tensor that any whole update touches differs in them; a single changed element
// may escape, and so may an update of less than an eighth of a tensor.

#ifndef KEEPSTEP_CLIENT_SAMPLES_H_
#define KEEPSTEP_CLIENT_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/device/allocation.h"

namespace keepstep::client {

inline constexpr int kSampleBytes = 64;
inline constexpr size_t kMaxSampledTensors = 1024;
inline constexpr int64_t kPiecesOfARun = 8;  // at most
inline constexpr int64_t kMaxPieces = 2048;  // of all runs, as LimitPlan gives them out

// A contiguous piece of a tensor in this process.
struct SampledRun {
  std::string fqn;
  const std::byte* data = nullptr;
  int64_t size_bytes = 0;
  int64_t pieces = kPiecesOfARun;  // of its sample, which is spread over it: 1, 2, 4 or 8
};

// What to sample, by group: every group that holds anything is a key, if only of an empty list.
using SamplePlan = std::map<uint32_t, std::vector<SampledRun>>;

// The same of GPU memory; groups that hold none are no keys.
using DeviceSamplePlan = std::map<uint32_t, std::vector<DeviceSample>>;

// Keeps kMaxSampledTensors, each group's share of them and at least one of it, evenly spread, and gives each its pieces.
void LimitPlan(SamplePlan* plan);
void LimitPlan(DeviceSamplePlan* plan);

// Of a run of GPU memory, from its middle: padding, if there is any, is at ends.
DeviceSample SampleOf(std::string fqn, uint64_t address, int64_t size_bytes, uint32_t buffer);

// The bytes of one group's samples. The memory must be mapped.
std::vector<std::byte> TakeSamples(const std::vector<SampledRun>& runs);

// The name of the first tensor whose sample differs from `before`; empty: none does.
std::string FindChanged(const std::vector<SampledRun>& runs, const std::vector<std::byte>& before);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SAMPLES_H_
