#include "client/command/names.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace keepstep::client {
namespace {

bool AllDigits(absl::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == absl::string_view::npos;
}

}  // namespace

absl::StatusOr<Name> ParseName(absl::string_view text) {
  const absl::string_view whole = text;
  while (text.size() > 1 && absl::ConsumeSuffix(&text, "/")) {
  }
  Name name;
  name.latest = true;
  const size_t slash = text.rfind('/');
  const absl::string_view last =
      slash == absl::string_view::npos ? absl::string_view() : text.substr(slash + 1);
  if (AllDigits(last) || last == "latest") {
    if (last != "latest") {
      int64_t step = 0;
      if (!absl::SimpleAtoi(last, &step)) {
        return absl::InvalidArgumentError(absl::StrCat("'", last, "' is too large for a step"));
      }
      name.step = step;
      name.latest = false;
    }
    text = slash == 0 ? text.substr(0, 1) : text.substr(0, slash);
  }
  if (text.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", whole, "' names no job; write JOB/STEP, JOB/latest or DIRECTORY/STEP"));
  }
  name.job = std::string(text);
  name.is_directory = text.find('/') != absl::string_view::npos || text == "." || text == "..";
  return name;
}

}  // namespace keepstep::client
