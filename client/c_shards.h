// Decodes the C ABI's description of what a rank holds.

#ifndef KEEPSTEP_CLIENT_C_SHARDS_H_
#define KEEPSTEP_CLIENT_C_SHARDS_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "client/keepstep.h"
#include "client/registration.h"

namespace keepstep::client {

// INVALID_ARGUMENT names the shard and what is wrong with it: a NULL where there must be none, a negative
// size, more than 64 dimensions, a `where` that does not exist. Geometry and bounds are the daemon's to
// check, and whether GPU memory is any, Locate's.
absl::StatusOr<Declared> DeclareShards(const ks_shard* shards, size_t count);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_C_SHARDS_H_
