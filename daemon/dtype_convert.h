// Conversion between floating-point element types, for loads that ask for it. To a narrower type rounds to
// nearest, ties to even; what is too large becomes infinite; NaN stays NaN.

#ifndef KEEPSTEP_DAEMON_DTYPE_CONVERT_H_
#define KEEPSTEP_DAEMON_DTYPE_CONVERT_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "reshard/dtype.h"

namespace keepstep::daemon {

// INVALID_ARGUMENT, naming both, unless the types are the same or both among F64, F32, F16, BF16.
absl::Status CheckConversion(reshard::DType stored, reshard::DType local);

// `count` elements; the arrays do not overlap and may be unaligned. REQUIRES: CheckConversion.
void ConvertElements(reshard::DType stored, reshard::DType local, int64_t count, const std::byte* from,
                     std::byte* to);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DTYPE_CONVERT_H_
