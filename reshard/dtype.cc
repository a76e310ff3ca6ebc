#include "reshard/dtype.h"

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "reshard/check.h"

namespace keepstep::reshard {
namespace {

struct Properties {
  const char* name;
  int64_t size_bytes;
  bool safetensors;
};

// In the order of the enum.
constexpr Properties kProperties[] = {
    {"BOOL", 1, true},    {"U8", 1, true},           {"I8", 1, true},           {"F8_E4M3", 1, true},
    {"F8_E5M2", 1, true}, {"I16", 2, true},          {"U16", 2, true},          {"F16", 2, true},
    {"BF16", 2, true},    {"I32", 4, true},          {"U32", 4, true},          {"F32", 4, true},
    {"F64", 8, true},     {"I64", 8, true},          {"U64", 8, true},          {"C64", 8, true},
    {"C128", 16, false},  {"F8_E4M3FNUZ", 1, false}, {"F8_E5M2FNUZ", 1, false}, {"F8_E8M0", 1, false},
};
static_assert(sizeof(kProperties) / sizeof(kProperties[0]) == kNumDTypes);
static_assert(static_cast<int>(DType::kF8E8M0) == kNumDTypes - 1);

const Properties& PropertiesOf(DType dtype) {
  const size_t index = static_cast<size_t>(dtype);
  KEEPSTEP_CHECK(index < kNumDTypes, "a dtype outside its enum");
  return kProperties[index];
}

}  // namespace

int64_t SizeBytes(DType dtype) { return PropertiesOf(dtype).size_bytes; }

bool IsSafetensorsDType(DType dtype) { return PropertiesOf(dtype).safetensors; }

absl::string_view DTypeName(DType dtype) { return PropertiesOf(dtype).name; }

absl::StatusOr<DType> ParseDType(absl::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i) {
    if (name == kProperties[i].name) return static_cast<DType>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype '", name.substr(0, 32), "'"));
}

}  // namespace keepstep::reshard
