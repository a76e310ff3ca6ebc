#include "daemon/viewer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kLeastToken = 16, kMostToken = 512;

// Takes as long for a wrong token as for the right one.
bool SameSecret(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

}  // namespace

Viewer ViewerOf(const HttpRequest& request, const std::string& token) {
  Viewer viewer{.uid = request.peer_uid.value_or(geteuid())};
  if (request.peer_uid.has_value())
    viewer.is_operator = *request.peer_uid == 0 || *request.peer_uid == geteuid();
  absl::string_view given = request.authorization;
  if (!token.empty() && absl::ConsumePrefix(&given, "Bearer ") && SameSecret(given, token))
    viewer.is_operator = true;
  return viewer;
}

std::vector<std::shared_ptr<Job>> VisibleTo(const Viewer& viewer, const JobRegistry& jobs) {
  std::vector<std::shared_ptr<Job>> visible;
  for (auto& job : jobs.All()) {
    if (viewer.is_operator || job->identity().owner == viewer.uid) visible.push_back(std::move(job));
  }
  return visible;
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  struct stat info;
  std::ifstream in(path);
  if (!in || stat(path.c_str(), &info) != 0)
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read the token in ", path, ": ", strerror(errno)));
  if ((info.st_mode & S_IRWXO) != 0)
    return absl::FailedPreconditionError(
        absl::StrCat("everybody may read the token in ", path, ": chmod o= it"));
  std::string token;
  std::getline(in, token);
  token = std::string(absl::StripAsciiWhitespace(token));
  if (token.size() < kLeastToken || token.size() > kMostToken) {
    return absl::InvalidArgumentError(absl::StrCat("the token in ", path, " has ", token.size(),
                                                   " characters, not ", kLeastToken, " to ", kMostToken));
  }
  return token;
}

}  // namespace keepstep::daemon
