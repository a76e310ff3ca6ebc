// Fingerprints of layouts: equal fingerprints reuse a plan, and key the catalog's rows. So they are stable
// across processes, machines and versions: a documented hash over a documented encoding.
//
// Canonical encoding of a shard, little-endian: the name (u32 length, bytes), dtype name (same), component
// (u8), group (u32), module_buffer (u8), number of dims (u32), shape (i64 each), replica ranks (u32 count,
// i32 each), boxes (u32 count, each origin and shape), index of the shard whose memory it shares (u32, its
// own when none). Buffers, offsets and strides are left out: they may change while the plan stays. A rank is
// the hash of its rank (i32) and of its shards' hashes in registration order; a layout is the hash of its
// ranks' fingerprints in the order of ranks. The hash is MurmurHash3 x64 128, seed 0: no defence against
// forgery.

#ifndef KEEPSTEP_RESHARD_FINGERPRINT_H_
#define KEEPSTEP_RESHARD_FINGERPRINT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

// 32 hexadecimal digits of MurmurHash3 x64 128.
std::string StableHash128(absl::string_view bytes);

std::string Fingerprint(const RankShards& rank);

// Of a whole layout, whatever the order in which the ranks are given.
std::string LayoutFingerprint(absl::Span<const RankShards> ranks);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_FINGERPRINT_H_
