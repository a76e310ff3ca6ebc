#include "client/command/settings.h"

#include <sys/vfs.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace keepstep::client {

Printed FindSetting(absl::string_view printed, absl::string_view key) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(key, absl::MaxSplits('.', 1));
  const bool grouped = !parts.second.empty();
  const std::string begin =
      grouped ? absl::StrCat("  ", parts.second, ": ") : absl::StrCat(parts.first, ": ");
  absl::string_view group;
  for (absl::string_view line : absl::StrSplit(printed, '\n')) {
    if (!absl::StartsWith(line, " ")) group = line.substr(0, line.find(':'));
    if ((grouped && group != parts.first) || !absl::ConsumePrefix(&line, begin)) continue;
    const size_t source = line.rfind(" # ");
    if (source == absl::string_view::npos) continue;
    const absl::string_view value = absl::StripAsciiWhitespace(line.substr(0, source));
    Printed found{.value = std::string(value), .is_default = line.substr(source + 3) == "default"};
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
      absl::CUnescape(value.substr(1, value.size() - 2), &found.value);
    return found;
  }
  return {};
}

bool IsNetworkFileSystem(int64_t type) {
  switch (static_cast<uint32_t>(type)) {
    case 0x6969:      // NFS
    case 0xFF534D42:  // CIFS
    case 0xFE534D42:  // SMB 2
    case 0x0BD00BD0:  // Lustre
    case 0x47504653:  // GPFS
    case 0x00C36400:  // Ceph
    case 0x19830326:  // BeeGFS
    case 0xAAD7AAEA:  // PanFS
    case 0x5346414F:  // AFS
    case 0x01021997:  // 9P
    case 0x65735546:  // FUSE, which may be one
      return true;
    default:
      return false;
  }
}

bool IsOnNetwork(const std::string& directory) {
  std::filesystem::path place = directory;
  struct statfs info;
  while (statfs(place.c_str(), &info) != 0) {
    if (!place.has_relative_path()) return false;
    place = place.parent_path();
  }
  return IsNetworkFileSystem(info.f_type);
}

}  // namespace keepstep::client
