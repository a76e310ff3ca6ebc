#include "client/extras.h"

#include <cstdint>
#include <type_traits>

#include "proto/sessions.pb.h"

namespace keepstep::client {
namespace {

template <typename Integer>
void Put(std::string* out, Integer value) {
  auto bits = static_cast<std::make_unsigned_t<Integer>>(value);
  for (size_t i = 0; i < sizeof(Integer); ++i) out->push_back(static_cast<char>(bits >> (8 * i) & 0xff));
}

void PutExtra(std::string* out, const v1::Extra& extra) {
  Put(out, static_cast<uint32_t>(extra.name().size()));
  out->append(extra.name());
  Put(out, extra.rank());
  Put(out, static_cast<uint32_t>(extra.coordinate_size()));
  for (int64_t index : extra.coordinate()) Put(out, index);
  Put(out, static_cast<uint8_t>(extra.splittable()));
  Put(out, static_cast<uint32_t>(extra.items_size()));
  for (const std::string& item : extra.items()) {
    Put(out, static_cast<uint64_t>(item.size()));
    out->append(item);
  }
}

}  // namespace

std::string EncodeExtras(const v1::GetExtraResponse& response) {
  std::string out;
  Put(&out, static_cast<int64_t>(response.step()));
  Put(&out, static_cast<uint32_t>(response.extras_size()));
  for (const v1::Extra& extra : response.extras()) PutExtra(&out, extra);
  return out;
}

}  // namespace keepstep::client
