// Changes protobuf messages by reflection, so that what the fuzzer tries is a message more often than noise.

#ifndef KEEPSTEP_TESTS_FUZZ_PROTO_MUTATOR_H_
#define KEEPSTEP_TESTS_FUZZ_PROTO_MUTATOR_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace keepstep::fuzz {

// `text` in protobuf's text format. False, and an empty message, for what is none.
bool ParseCase(absl::string_view text, google::protobuf::Message& into);

// A few edits anywhere in the tree of `message`: values that are near, extreme, or found elsewhere in it;
// fields set and cleared; elements added, repeated, moved and dropped. The same seed makes the same edits.
void MutateMessage(google::protobuf::Message& message, uint32_t seed);

// Puts parts of `from` into places of `into` that take messages of their type.
void CrossMessages(const google::protobuf::Message& from, google::protobuf::Message& into, uint32_t seed);

// libFuzzer's two hooks over text, for messages of the type of `scratch`. They return the size written to
// `out`.
size_t MutateText(google::protobuf::Message& scratch, uint8_t* data, size_t size, size_t max_size,
                  uint32_t seed);
size_t CrossText(google::protobuf::Message& a, google::protobuf::Message& b, absl::string_view text_a,
                 absl::string_view text_b, uint8_t* out, size_t max_size, uint32_t seed);

}  // namespace keepstep::fuzz

// The entry points of a target that runs cases of one message type by `void Run(const Case&)`.
#define KEEPSTEP_FUZZ_CASES(Case, Run)                                                                   \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {                              \
    Case value;                                                                                          \
    if (!::keepstep::fuzz::ParseCase({reinterpret_cast<const char*>(data), size}, value)) return -1;     \
    Run(value);                                                                                          \
    return 0;                                                                                            \
  }                                                                                                      \
  extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,                 \
                                            unsigned int seed) {                                         \
    Case value;                                                                                          \
    return ::keepstep::fuzz::MutateText(value, data, size, max_size, seed);                              \
  }                                                                                                      \
  extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t a_size, const uint8_t* b,         \
                                              size_t b_size, uint8_t* out, size_t max_size,              \
                                              unsigned int seed) {                                       \
    Case one, other;                                                                                     \
    return ::keepstep::fuzz::CrossText(one, other, {reinterpret_cast<const char*>(a), a_size},           \
                                       {reinterpret_cast<const char*>(b), b_size}, out, max_size, seed); \
  }

#endif  // KEEPSTEP_TESTS_FUZZ_PROTO_MUTATOR_H_
