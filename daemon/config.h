// The daemon's configuration: one table of keys, from which files, flags, environment, help and
// --print-config follow.
//
// A key `pool.bytes` is `pool: {bytes: 64GiB}` in the file, `--pool-bytes 64GiB` as a flag,
// `KEEPSTEP_POOL_BYTES` in the environment. Flag > environment > file > default. docs/configuration.md lists
// every key; a test compares.
//
// Everything here is pure: config_source.h finds files and reads the environment.

#ifndef KEEPSTEP_DAEMON_CONFIG_H_
#define KEEPSTEP_DAEMON_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "daemon/daemon_spec.h"

namespace keepstep::daemon {

struct Config {
  DaemonSpec daemon;
  int64_t drain_ms = 120'000;  // what saves in flight get after SIGTERM
  int64_t exit_idle_ms = 0;    // unused for so long, the daemon ends; 0: never
};

struct ConfigKey {
  std::string name;     // "pool.bytes"
  std::string flag;     // "--pool-bytes"
  std::string setting;  // environment: "KEEPSTEP_POOL_BYTES"; a list's values are separated by ':'
  std::string takes;    // "size", "duration", "text|json": for people
  std::string help;
  bool is_list = false;
  bool reloads = false;  // SIGHUP applies it; else it needs a restart

  // `values` has one element unless is_list. INVALID_ARGUMENT says what is wrong, without naming the key.
  std::function<absl::Status(const std::vector<std::string>& values, Config&)> set;
  std::function<std::vector<std::string>(const Config&)> get;  // `set` reads them back
};

// In the order in which people read them. Lives as long as the program.
const std::vector<ConfigKey>& ConfigKeys();

// One key that some source sets, found valid.
struct Setting {
  const ConfigKey* key = nullptr;
  std::vector<std::string> values;
  std::string source;  // "keepstep.yaml:3", "KEEPSTEP_POOL_BYTES", "--pool-bytes"
};
absl::StatusOr<Setting> MakeSetting(const ConfigKey& key, std::vector<std::string> values,
                                    std::string source);

inline constexpr size_t kMaxConfigBytes = 256 << 10;

// The settings of a YAML text; `file` names it in messages. INVALID_ARGUMENT, in one line, for anything but a
// map of known keys, each once, with valid values: "unknown key 'pool_byte' at keepstep.yaml:3; did you mean
// 'pool.bytes'?".
absl::StatusOr<std::vector<Setting>> ParseConfig(absl::string_view text, absl::string_view file);

struct EffectiveConfig {
  Config config;
  std::map<std::string, std::string> sources;  // by key's name; a key without one has its default
};

// Later layers win. INVALID_ARGUMENT where values that are valid alone do not go together.
absl::StatusOr<EffectiveConfig> Combine(const Config& defaults,
                                        absl::Span<const std::vector<Setting>> layers);

// YAML that ParseConfig reads back to the same values, each with its source as a comment.
std::string PrintConfig(const EffectiveConfig& effective);

struct ConfigChange {
  const ConfigKey* key = nullptr;
  std::string from, to;
};
std::vector<ConfigChange> Differences(const Config& from, const Config& to);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CONFIG_H_
