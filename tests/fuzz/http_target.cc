// The head of an HTTP request: what is taken is a GET or HEAD of an absolute path, in text without control
// characters.

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/http_message.h"
#include "reshard/check.h"

namespace keepstep::fuzz {
namespace {

bool IsText(absl::string_view text) {
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) return false;
  }
  return true;
}

void TestHead(absl::string_view text) {
  const daemon::HttpHead head = daemon::ParseHead(text);
  const int refused = head.refused;
  KEEPSTEP_CHECK(refused == 0 || refused == 400 || refused == 405 || refused == 413 || refused == 505,
                 "a status that ParseHead does not have");
  const std::string answer = daemon::Serialize(daemon::Plain(refused == 0 ? 200 : refused), head.head_only);
  KEEPSTEP_CHECK(absl::StartsWith(answer, absl::StrCat("HTTP/1.1 ", refused == 0 ? 200 : refused, " ")),
                 "an answer of another status");
  if (refused != 0) return;
  KEEPSTEP_CHECK(absl::StartsWith(text, head.head_only ? "HEAD /" : "GET /"),
                 "another method than GET and HEAD");
  KEEPSTEP_CHECK(absl::StartsWith(head.request.path, "/"), "a path that is not absolute");
  KEEPSTEP_CHECK(!absl::StrContains(head.request.path, '?'), "a path with its query");
  KEEPSTEP_CHECK(IsText(head.request.path) && IsText(head.host) && IsText(head.request.authorization),
                 "control characters in what handlers get");
  if (daemon::NamesLoopback(head.host)) {
    KEEPSTEP_CHECK(absl::StartsWith(head.host, "localhost") || absl::StartsWith(head.host, "127.0.0.1") ||
                       absl::StartsWith(head.host, "[::1]"),
                   "a host that is not this machine");
  }
}

}  // namespace
}  // namespace keepstep::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keepstep::fuzz::TestHead(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
