#include "daemon/http_message.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace keepstep::daemon {
namespace {

const char* Meaning(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 421:
      return "Misdirected Request";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Internal Server Error";
  }
}

bool IsText(absl::string_view text) {
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) return false;
  }
  return true;
}

// 0, or the status that refuses the header.
int TakeHeader(absl::string_view line, HttpHead& head) {
  const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
  if (parts.size() != 2 || parts[0].empty() || absl::StrContains(parts[0], ' ')) return 400;
  const absl::string_view value = absl::StripAsciiWhitespace(parts[1]);
  if (!IsText(value)) return 400;
  const std::string name = absl::AsciiStrToLower(parts[0]);
  if (name == "host") {
    if (!head.host.empty()) return 400;
    head.host = std::string(value);
  } else if (name == "authorization") {
    head.request.authorization = std::string(value);
  } else if (name == "transfer-encoding" || (name == "content-length" && value != "0")) {
    return 413;
  }
  return 0;
}

}  // namespace

HttpHead ParseHead(absl::string_view text) {
  HttpHead head;
  std::vector<absl::string_view> lines = absl::StrSplit(text, "\r\n");
  const std::vector<absl::string_view> words = absl::StrSplit(lines[0], ' ');
  if (words.size() != 3 || !IsText(lines[0]) || !absl::StartsWith(words[1], "/")) {
    head.refused = 400;
    return head;
  }
  if (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0") {
    head.refused = 505;
    return head;
  }
  head.head_only = words[0] == "HEAD";
  if (!head.head_only && words[0] != "GET") {
    head.refused = 405;
    return head;
  }
  head.request.path = std::string(words[1].substr(0, words[1].find('?')));
  for (size_t i = 1; i < lines.size() && !lines[i].empty() && head.refused == 0; ++i) {
    head.refused = TakeHeader(lines[i], head);
  }
  return head;
}

bool NamesLoopback(absl::string_view host) {
  const size_t colon = host.rfind(':');
  const size_t bracket = host.rfind(']');
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket))
    host = host.substr(0, colon);
  return host == "localhost" || host == "[::1]" || host == "127.0.0.1";
}

std::string Serialize(const HttpResponse& response, bool head_only) {
  return absl::StrCat("HTTP/1.1 ", response.status, " ", Meaning(response.status),
                      "\r\nContent-Type: ", response.content_type,
                      "\r\nContent-Length: ", response.body.size(),
                      response.status == 405 ? "\r\nAllow: GET, HEAD" : "",
                      "\r\nConnection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff"
                      "\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n",
                      head_only ? absl::string_view() : absl::string_view(response.body));
}

HttpResponse Plain(int status) { return {.status = status, .body = absl::StrCat(Meaning(status), "\n")}; }

}  // namespace keepstep::daemon
