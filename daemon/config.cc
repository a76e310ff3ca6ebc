#include "daemon/config.h"

#include <sys/un.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "daemon/version.h"
#include "proto/handoff.h"

namespace keepstep::daemon {
namespace {

// Plain where YAML reads it back as the same text, else in double quotes.
std::string Scalar(absl::string_view value) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' ||
           c == '.' || c == '_' || c == '-';
  };
  const bool word = !value.empty() && value.front() != '-' && std::all_of(value.begin(), value.end(), plain);
  if (word && value != "null" && value != "Null" && value != "NULL") return std::string(value);
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string Shown(const ConfigKey& key, const Config& config) {
  std::vector<std::string> values = key.get(config);
  for (std::string& value : values) value = Scalar(value);
  return key.is_list ? absl::StrCat("[", absl::StrJoin(values, ", "), "]") : values[0];
}

absl::Status CheckTogether(const Config& config) {
  const DaemonSpec& spec = config.daemon;
  const std::string longest = absl::StrCat(spec.socket_directory, "/", proto::kHandoffSocketName);
  if (longest.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket_dir is too long: a socket's path has at most ",
                                                   sizeof(sockaddr_un::sun_path) - 1, " bytes, ", longest,
                                                   " has ", longest.size()));
  }
  if (spec.limits.retry_first_ms > spec.limits.retry_most_ms)
    return absl::InvalidArgumentError("limits.retry_first is above limits.retry_most");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Setting> MakeSetting(const ConfigKey& key, std::vector<std::string> values,
                                    std::string source) {
  const std::string what = absl::StrCat(key.name, " (", source, ")");
  if (!key.is_list && values.size() != 1)
    return absl::InvalidArgumentError(absl::StrCat(what, " takes one value, not ", values.size()));
  Config scratch;
  if (absl::Status status = key.set(values, scratch); !status.ok())
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", status.message()));
  return Setting{&key, std::move(values), std::move(source)};
}

absl::StatusOr<EffectiveConfig> Combine(const Config& defaults,
                                        absl::Span<const std::vector<Setting>> layers) {
  EffectiveConfig effective{.config = defaults};
  for (const std::vector<Setting>& layer : layers) {
    for (const Setting& setting : layer) {
      if (absl::Status status = setting.key->set(setting.values, effective.config); !status.ok())
        return status;
      effective.sources[setting.key->name] = setting.source;
    }
  }
  if (absl::Status status = CheckTogether(effective.config); !status.ok()) return status;
  return effective;
}

std::string PrintConfig(const EffectiveConfig& effective) {
  std::string out =
      absl::StrCat("# keepstepd ", kVersion, ": every value in effect, and where it comes from\n");
  absl::string_view group;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(key.name, absl::MaxSplits('.', 1));
    const bool grouped = !parts.second.empty();
    if (grouped && parts.first != group) absl::StrAppend(&out, parts.first, ":\n");
    group = grouped ? parts.first : "";
    const auto source = effective.sources.find(key.name);
    absl::StrAppendFormat(&out, "%-44s # %s\n",
                          absl::StrCat(grouped ? "  " : "", grouped ? parts.second : parts.first, ": ",
                                       Shown(key, effective.config)),
                          source == effective.sources.end() ? "default" : source->second);
  }
  return out;
}

std::vector<ConfigChange> Differences(const Config& from, const Config& to) {
  std::vector<ConfigChange> changes;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.get(from) != key.get(to)) changes.push_back({&key, Shown(key, from), Shown(key, to)});
  }
  return changes;
}

}  // namespace keepstep::daemon
