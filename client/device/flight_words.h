// The words of a flight record (proto/flight_record.h), written in stream order.
//
// Their page is pinned for as long as a write may be queued: a stream that wrote to memory that is pinned no more would
// end the program's context.

#ifndef KEEPSTEP_CLIENT_DEVICE_FLIGHT_WORDS_H_
#define KEEPSTEP_CLIENT_DEVICE_FLIGHT_WORDS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "absl/status/status.h"
#include "client/device/contexts.h"
#include "proto/flight_record.h"

namespace keepstep::client {

// Thread-safe.
class FlightWordsWriter {
 public:
  // Both outlive it.
  FlightWordsWriter(const cuda::Driver& cu, Contexts* contexts) : cu_(cu), contexts_(contexts) {}

  // Queues on `stream`, of GPU `device`, the write of `value` to the word at `offset_bytes` of `page`, which is the same
  // at every call. FAILED_PRECONDITION (NO_STREAM_WRITES): the driver has no such operation, does not pin the page, or
  // the stream is not that GPU's. ABORTED (DEVICE_ERROR): the driver failed.
  absl::Status Write(CUstream stream, int device, proto::FlightWords* page, size_t offset_bytes, uint32_t value);

  // Every write that was queued has been made: lets the page go.
  void Unpin();

 private:
  absl::Status Pin(proto::FlightWords* page);
  absl::StatusOr<CUdeviceptr> AddressIn(CUcontext context, proto::FlightWords* page);  // current

  const cuda::Driver& cu_;
  Contexts* const contexts_;
  std::mutex mu_;
  proto::FlightWords* pinned_ = nullptr;        // guarded by mu_
  std::map<CUcontext, CUdeviceptr> addresses_;  // guarded by mu_
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_FLIGHT_WORDS_H_
