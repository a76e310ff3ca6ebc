// What a rank holds, in the form in which it can be declared again to a daemon that has restarted.

#ifndef KEEPSTEP_CLIENT_REGISTRATION_H_
#define KEEPSTEP_CLIENT_REGISTRATION_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "client/buffer_table.h"
#include "client/channel.h"
#include "client/deadline.h"
#include "client/samples.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

struct Declared {
  std::vector<v1::Buffer> buffers;
  std::vector<v1::Shard> shards;
  SamplePlan samples;

  std::vector<MemoryRange> Ranges() const;
};

// The messages that declare all of `declared` as `generation`, each at most `limit_bytes`, at least one.
std::vector<v1::RegisterRequest> SplitRegistration(const Declared& declared, uint64_t generation,
                                                   size_t limit_bytes);

// Sends them in order. The daemon takes a generation as a whole or not at all.
absl::Status SendRegistration(const Declared& declared, uint64_t generation, Channel* channel,
                              Deadline deadline);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_REGISTRATION_H_
