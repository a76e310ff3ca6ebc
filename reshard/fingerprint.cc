#include "reshard/fingerprint.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "reshard/alias.h"
#include "reshard/dtype.h"

namespace keepstep::reshard {
namespace {

constexpr uint64_t kMultiplier1 = 0x87c37b91114253d5;
constexpr uint64_t kMultiplier2 = 0x4cf5ad432745937f;

uint64_t RotateLeft(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

uint64_t Finalise(uint64_t value) {
  value = (value ^ value >> 33) * 0xff51afd7ed558ccd;
  value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53;
  return value ^ value >> 33;
}

// Up to eight bytes, little-endian, whatever the machine.
uint64_t Load(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < std::min<size_t>(bytes.size(), 8); ++i) {
    value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return value;
}

uint64_t Mix1(uint64_t k) { return RotateLeft(k * kMultiplier1, 31) * kMultiplier2; }
uint64_t Mix2(uint64_t k) { return RotateLeft(k * kMultiplier2, 33) * kMultiplier1; }

template <typename Integer>
void Put(std::string& to, Integer value) {
  for (size_t i = 0; i < sizeof(value); ++i)
    to.push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
}

void PutString(std::string& to, absl::string_view text) {
  Put(to, static_cast<uint32_t>(text.size()));
  to.append(text.data(), text.size());
}

void PutDims(std::string& to, const Dims& dims) {
  for (const int64_t value : dims) Put(to, value);
}

std::string Encode(const TensorShard& shard, uint32_t stands_for) {
  std::string bytes;
  PutString(bytes, shard.meta.fqn);
  PutString(bytes, DTypeName(shard.meta.dtype));
  Put(bytes, static_cast<uint8_t>(shard.meta.component));
  Put(bytes, shard.group);
  Put(bytes, static_cast<uint8_t>(shard.module_buffer));
  Put(bytes, static_cast<uint32_t>(shard.meta.shape.size()));
  PutDims(bytes, shard.meta.shape);
  Put(bytes, static_cast<uint32_t>(shard.replica_ranks.size()));
  for (const int32_t rank : shard.replica_ranks) Put(bytes, rank);
  Put(bytes, static_cast<uint32_t>(shard.boxes.size()));
  for (const LocalBox& local : shard.boxes) {
    PutDims(bytes, local.box.origin);
    PutDims(bytes, local.box.shape);
  }
  Put(bytes, stands_for);
  return bytes;
}

}  // namespace

std::string StableHash128(absl::string_view bytes) {
  uint64_t h1 = 0;
  uint64_t h2 = 0;
  const uint64_t size = bytes.size();
  for (; bytes.size() >= 16; bytes.remove_prefix(16)) {
    h1 = (RotateLeft(h1 ^ Mix1(Load(bytes)), 27) + h2) * 5 + 0x52dce729;
    h2 = (RotateLeft(h2 ^ Mix2(Load(bytes.substr(8))), 31) + h1) * 5 + 0x38495ab5;
  }
  if (bytes.size() > 8) h2 ^= Mix2(Load(bytes.substr(8)));
  if (!bytes.empty()) h1 ^= Mix1(Load(bytes));
  h1 ^= size;
  h2 ^= size;
  h1 += h2;
  h2 += h1;
  h1 = Finalise(h1);
  h2 = Finalise(h2);
  h1 += h2;
  h2 += h1;
  std::string digest;
  Put(digest, h1);
  Put(digest, h2);
  return absl::BytesToHexString(digest);
}

std::string Fingerprint(const RankShards& rank) {
  const std::vector<uint32_t> stands_for = AliasesOf(rank);
  std::string digests;
  Put(digests, rank.rank);
  for (size_t i = 0; i < rank.shards.size(); ++i)
    digests += StableHash128(Encode(rank.shards[i], stands_for[i]));
  return StableHash128(digests);
}

std::string LayoutFingerprint(absl::Span<const RankShards> ranks) {
  std::vector<std::pair<int32_t, std::string>> fingerprints;
  for (const RankShards& rank : ranks) fingerprints.emplace_back(rank.rank, Fingerprint(rank));
  std::sort(fingerprints.begin(), fingerprints.end());
  std::string all;
  for (const auto& [rank, fingerprint] : fingerprints) all += fingerprint;
  return StableHash128(all);
}

}  // namespace keepstep::reshard
