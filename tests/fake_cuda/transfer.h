// What the copies of the API have in common: from addresses to pieces, on a stream.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_TRANSFER_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_TRANSFER_H_

#include <vector>

#include "tests/fake_cuda/driver.h"

namespace keepstep::fake_cuda {

struct Row {
  uint64_t to;
  uint64_t from;
  size_t size_bytes;
};

// Queues the copy of `rows` on `stream`; host or device is what each address is.
//
// Device addresses must be mapped now, or CUDA_ERROR_INVALID_VALUE; they are looked up again when the copy
// runs, and what is not there then, or must not be accessed so, is CUDA_ERROR_ILLEGAL_ADDRESS for the
// context. Host memory that is not registered is no memory of the GPU's: such a copy is over, or its source
// is taken, when this returns.
CUresult Transfer(Context& context, Stream& stream, std::vector<Row> rows);

// The same on the legacy default stream, and waits for it.
CUresult TransferNow(Context& context, std::vector<Row> rows);

// Queues the filling of `count` units of `unit_bytes` (1 or 4) with `value`.
CUresult Fill(Context& context, Stream& stream, CUdeviceptr to, uint32_t value, size_t unit_bytes,
              size_t count);

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_TRANSFER_H_
