// A configuration file: what ParseConfig takes, PrintConfig prints so that ParseConfig reads the same values
// back.

#include <string>
#include <vector>

#include "daemon/config.h"
#include "reshard/check.h"

namespace keepstep::fuzz {
namespace {

using daemon::Config;
using daemon::EffectiveConfig;
using daemon::Setting;

// What config_source.h fills in on a machine without any configuration.
Config Defaults() {
  Config config;
  config.daemon.socket_directory = "/run/keepstep";
  config.daemon.state_directory = "/var/lib/keepstep";
  return config;
}

void TestConfig(absl::string_view text) {
  const absl::StatusOr<std::vector<Setting>> settings = daemon::ParseConfig(text, "keepstep.yaml");
  if (!settings.ok()) {
    KEEPSTEP_CHECK(absl::IsInvalidArgument(settings.status()),
                   "a refusal with another code than INVALID_ARGUMENT");
    KEEPSTEP_CHECK(settings.status().message().find('\n') == absl::string_view::npos,
                   "a refusal of several lines");
    return;
  }
  const absl::StatusOr<EffectiveConfig> effective = daemon::Combine(Defaults(), {*settings});
  if (!effective.ok()) return;
  const std::string printed = daemon::PrintConfig(*effective);
  const absl::StatusOr<std::vector<Setting>> again = daemon::ParseConfig(printed, "printed");
  KEEPSTEP_CHECK(again.ok(), "what was printed cannot be read");
  const absl::StatusOr<EffectiveConfig> same = daemon::Combine(Defaults(), {*again});
  KEEPSTEP_CHECK(same.ok(), "what was printed does not go together");
  KEEPSTEP_CHECK(daemon::Differences(effective->config, same->config).empty(),
                 "a value changed by being printed");
}

}  // namespace
}  // namespace keepstep::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keepstep::fuzz::TestConfig(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
