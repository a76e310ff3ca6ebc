// Between the C ABI's structs and the library's own types.

#ifndef KEEPSTEP_CLIENT_C_CONVERT_H_
#define KEEPSTEP_CLIENT_C_CONVERT_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/keepstep.h"
#include "client/session.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

// Fills `error` where it is not NULL; returns the code.
ks_code ToError(const absl::Status& status, ks_error* error);

absl::StatusOr<SessionSpec> ToSpec(const ks_open_options& options);
absl::StatusOr<v1::SaveRequest> ToSave(int64_t step, const ks_save_options& options);
absl::StatusOr<v1::LoadRequest> ToLoad(const ks_load_options& options);

void ToStatus(const v1::SaveStatus& status, double call_seconds, ks_save_status* out);
// RESOURCE_EXHAUSTED: no memory for the names.
absl::Status ToReport(const Client::Loaded& loaded, ks_load_report* out);

// "host by pull; 3 allocations by ipc": ks_info's memory_paths.
std::string MemoryPaths(const SessionInfo& info);

// Copies as much as fits and always ends with NUL.
void CopyText(const std::string& text, char* into, size_t size_bytes);

// A copy of the caller's struct as this library knows it: fields that an older caller's lacks are zero,
// fields that a newer caller's has beyond it are not read. False: NULL, or `struct_bytes` was not set.
template <typename Options>
bool Adopt(const Options* given, Options* out) {
  constexpr uint32_t kMaxStructBytes = 4096;
  *out = Options{};
  if (given == nullptr || given->struct_bytes < sizeof(uint32_t) || given->struct_bytes > kMaxStructBytes)
    return false;
  std::memcpy(out, given, std::min<size_t>(given->struct_bytes, sizeof(Options)));
  return true;
}

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_C_CONVERT_H_
