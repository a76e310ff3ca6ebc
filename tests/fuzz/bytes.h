// Takes a fuzzer's bytes apart: first the choices, then what is left.

#ifndef KEEPSTEP_TESTS_FUZZ_BYTES_H_
#define KEEPSTEP_TESTS_FUZZ_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"

namespace keepstep::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  // Little-endian; zeros once there are no more bytes.
  template <typename Integer>
  Integer Take() {
    Integer value = 0;
    const size_t taken = rest_.size() < sizeof(value) ? rest_.size() : sizeof(value);
    if (taken > 0) std::memcpy(&value, rest_.data(), taken);
    rest_.remove_prefix(taken);
    return value;
  }
  absl::string_view rest() const { return rest_; }

 private:
  absl::string_view rest_;
};

}  // namespace keepstep::fuzz

#endif  // KEEPSTEP_TESTS_FUZZ_BYTES_H_
