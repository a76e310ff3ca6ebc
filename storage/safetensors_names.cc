// Entry names. A tensor may be called anything printable; `#` separates the box's number, `%` escapes, and
// two keys of a header's `__metadata__` and top level are taken.

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/safetensors.h"

namespace keepstep::storage {
namespace {

void AppendEscaped(char c, std::string& out) {
  absl::StrAppendFormat(&out, "%%%02X", static_cast<uint8_t>(c));
}

std::string EscapeName(absl::string_view fqn) {
  const bool reserved = fqn == "__metadata__" || fqn == "format";
  std::string out;
  out.reserve(fqn.size() + 4);
  for (size_t i = 0; i < fqn.size(); ++i) {
    if (fqn[i] == '#' || fqn[i] == '%' || (reserved && i == 0)) {
      AppendEscaped(fqn[i], out);
    } else {
      out.push_back(fqn[i]);
    }
  }
  return out;
}

std::optional<std::string> UnescapeName(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size() || !absl::ascii_isxdigit(text[i + 1]) || !absl::ascii_isxdigit(text[i + 2])) {
      return std::nullopt;
    }
    uint32_t value = 0;
    if (!absl::SimpleHexAtoi(text.substr(i + 1, 2), &value)) return std::nullopt;
    out.push_back(static_cast<char>(value));
    i += 2;
  }
  return out;
}

}  // namespace

std::string EntryName(absl::string_view fqn, uint32_t k) {
  std::string name = EscapeName(fqn);
  if (k > 0) absl::StrAppend(&name, "#", k);
  return name;
}

std::optional<std::pair<std::string, uint32_t>> ParseEntryName(absl::string_view name) {
  uint32_t k = 0;
  const size_t hash = name.find('#');
  if (hash != absl::string_view::npos && !absl::SimpleAtoi(name.substr(hash + 1), &k)) return std::nullopt;
  std::optional<std::string> fqn = UnescapeName(name.substr(0, hash));
  if (!fqn || fqn->empty() || EntryName(*fqn, k) != name) return std::nullopt;
  return std::make_pair(*std::move(fqn), k);
}

}  // namespace keepstep::storage
