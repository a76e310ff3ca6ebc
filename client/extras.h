// The record that ks_get_extras returns: what the daemon answered, flat, for callers without Protocol
// Buffers.
//
// Little-endian, packed, in this order; `string` is a u32 length and that many bytes.
//
//   i64 step
//   u32 extra count, then for each extra:
//     string name
//     i32 rank                      who saved it
//     u32 coordinate count, i64 ... its place in the mesh
//     u8  splittable                0 or 1
//     u32 item count, then for each item: u64 size, bytes
//
// Example, one extra "rng" of rank 2 without coordinates and with the single item 0xab, of step 7 (41 bytes):
//   07 00 00 00 00 00 00 00 | 01 00 00 00 | 03 00 00 00 72 6e 67 | 02 00 00 00 | 00 00 00 00 | 00 |
//   01 00 00 00 | 01 00 00 00 00 00 00 00 ab

#ifndef KEEPSTEP_CLIENT_EXTRAS_H_
#define KEEPSTEP_CLIENT_EXTRAS_H_

#include <string>

namespace keepstep::v1 {
class GetExtraResponse;
}

namespace keepstep::client {

std::string EncodeExtras(const v1::GetExtraResponse& response);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_EXTRAS_H_
