#include "daemon/dtype_convert.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"

namespace keepstep::daemon {
namespace {

using reshard::DType;

bool IsConvertible(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

template <DType>
struct Element;

template <>
struct Element<DType::kF64> {
  using Bits = double;
  static double Decode(double value) { return value; }
  static double Encode(double value) { return value; }
};

template <>
struct Element<DType::kF32> {
  using Bits = float;
  static double Decode(float value) { return value; }
  static float Encode(double value) { return static_cast<float>(value); }
};

// Rounds a double straight to a format of 16 bits: by way of float it would be rounded twice.
template <int kMantissaBits, int kExponentBits>
struct Narrow {
  using Bits = uint16_t;
  static constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  static constexpr uint16_t kInfinity = ((1 << kExponentBits) - 1) << kMantissaBits;

  static double Decode(uint16_t bits) {
    const double sign = bits >> 15 != 0 ? -1.0 : 1.0;
    const int exponent = (bits & kInfinity) >> kMantissaBits;
    const int mantissa = bits & ((1 << kMantissaBits) - 1);
    if ((bits & kInfinity) == kInfinity) return mantissa != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - kBias - kMantissaBits);
    return sign * std::ldexp(mantissa + (1 << kMantissaBits), exponent - kBias - kMantissaBits);
  }

  static uint16_t Encode(double value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return sign | kInfinity | (1 << (kMantissaBits - 1));
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    if (std::isinf(magnitude)) return sign | kInfinity;
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int scale = std::max(exponent - 1, 1 - kBias);  // of the unit digit; subnormals share the smallest
    const auto units = static_cast<int64_t>(std::nearbyint(std::ldexp(magnitude, kMantissaBits - scale)));
    // A carry out of the mantissa lands in the exponent, and out of the largest exponent in infinity.
    const int64_t biased = int64_t{scale + kBias - 1} << kMantissaBits;
    return sign | static_cast<uint16_t>(std::min<int64_t>(biased + units, kInfinity));
  }
};

template <>
struct Element<DType::kF16> : Narrow<10, 5> {};
template <>
struct Element<DType::kBF16> : Narrow<7, 8> {
  static double Decode(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

template <DType kFrom, DType kTo>
void ConvertArray(int64_t count, const std::byte* from, std::byte* to) {
  using In = typename Element<kFrom>::Bits;
  using Out = typename Element<kTo>::Bits;
  for (int64_t i = 0; i < count; ++i) {
    In in;
    std::memcpy(&in, from + i * sizeof(In), sizeof(In));
    const Out out = Element<kTo>::Encode(Element<kFrom>::Decode(in));
    std::memcpy(to + i * sizeof(Out), &out, sizeof(Out));
  }
}

template <DType kFrom>
void ConvertFrom(DType local, int64_t count, const std::byte* from, std::byte* to) {
  switch (local) {
    case DType::kF64:
      return ConvertArray<kFrom, DType::kF64>(count, from, to);
    case DType::kF32:
      return ConvertArray<kFrom, DType::kF32>(count, from, to);
    case DType::kF16:
      return ConvertArray<kFrom, DType::kF16>(count, from, to);
    default:
      return ConvertArray<kFrom, DType::kBF16>(count, from, to);
  }
}

}  // namespace

absl::Status CheckConversion(DType stored, DType local) {
  if (stored == local || (IsConvertible(stored) && IsConvertible(local))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cannot convert ", std::string(reshard::DTypeName(stored)),
                                                 " to ", std::string(reshard::DTypeName(local))));
}

void ConvertElements(DType stored, DType local, int64_t count, const std::byte* from, std::byte* to) {
  KEEPSTEP_CHECK(CheckConversion(stored, local).ok(), "a conversion that was not checked");
  if (stored == local) {
    std::memcpy(to, from, count * reshard::SizeBytes(stored));
    return;
  }
  switch (stored) {
    case DType::kF64:
      return ConvertFrom<DType::kF64>(local, count, from, to);
    case DType::kF32:
      return ConvertFrom<DType::kF32>(local, count, from, to);
    case DType::kF16:
      return ConvertFrom<DType::kF16>(local, count, from, to);
    default:
      return ConvertFrom<DType::kBF16>(local, count, from, to);
  }
}

}  // namespace keepstep::daemon
