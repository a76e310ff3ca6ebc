#include "daemon/config_source.h"

#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/version.h"

namespace keepstep::daemon {
namespace {

constexpr char kSystemFile[] = "/etc/keepstep/keepstep.yaml";
constexpr char kOwnFile[] = "/keepstep/keepstep.yaml";

std::string FromEnvironment(const char* name, const char* rest) {
  const char* value = getenv(name);
  return value == nullptr || *value == '\0' ? std::string() : absl::StrCat(value, rest);
}

std::string FirstOf(std::string one, std::string other) {
  return one.empty() ? std::move(other) : std::move(one);
}

Config Defaults() {
  Config config;
  const bool root = geteuid() == 0;
  config.daemon.socket_directory =
      root ? "/run/keepstep" : FirstOf(FromEnvironment("XDG_RUNTIME_DIR", "/keepstep"), "/run/keepstep");
  config.daemon.state_directory = root ? "/var/lib/keepstep"
                                       : FirstOf(FromEnvironment("XDG_STATE_HOME", "/keepstep"),
                                                 FromEnvironment("HOME", "/.local/state/keepstep"));
  return config;
}

absl::Status CannotRead(const std::string& file) {
  return absl::Status(absl::ErrnoToStatusCode(errno),
                      absl::StrCat("cannot read ", file, ": ", strerror(errno)));
}

absl::StatusOr<std::vector<Setting>> FromFile(const std::string& file) {
  if (file.empty()) return std::vector<Setting>();
  std::ifstream in(file, std::ios::binary);
  if (!in) return CannotRead(file);
  std::string text(kMaxConfigBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return CannotRead(file);
  text.resize(static_cast<size_t>(in.gcount()));
  return ParseConfig(text, file);
}

absl::StatusOr<std::vector<Setting>> FromVariables() {
  std::vector<Setting> settings;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string value = FromEnvironment(key.setting.c_str(), "");
    if (value.empty()) continue;
    std::vector<std::string> values = {value};
    if (key.is_list) values = absl::StrSplit(value, ':', absl::SkipEmpty());
    absl::StatusOr<Setting> setting = MakeSetting(key, std::move(values), key.setting);
    if (!setting.ok()) return setting.status();
    settings.push_back(*std::move(setting));
  }
  return settings;
}

absl::Status CheckRoots(const std::vector<std::string>& roots) {
  for (const std::string& root : roots) {
    struct stat info;
    if (stat(root.c_str(), &info) != 0)
      return absl::Status(absl::ErrnoToStatusCode(errno), absl::StrCat("root ", root, ": ", strerror(errno)));
    if (!S_ISDIR(info.st_mode))
      return absl::InvalidArgumentError(absl::StrCat("root ", root, " is no directory"));
  }
  return absl::OkStatus();
}

}  // namespace

std::variant<ConfigSource, int> ConfigSource::FromCommandLine(int argc, char** argv) {
  ConfigSource source;
  CLI::App app(
      "keepstepd keeps training checkpoints: trainers hand their tensors over, it makes them durable.");
  app.set_version_flag("--version", kVersion);
  app.add_option("--config", source.named_file_, "The configuration file (YAML)");
  bool check = false, print = false, look = false;
  app.add_flag("--check", check, "Validate the configuration and exit: 0 good, 1 bad");
  app.add_flag("--print-config", print, "Print every value in effect, with its source, and exit");
  app.add_flag("--read-only", look,
               "Serve the roots for one look and change nothing; no other setting has a say");
  std::vector<std::vector<std::string>> values(ConfigKeys().size());
  for (size_t i = 0; i < values.size(); ++i) {
    const ConfigKey& key = ConfigKeys()[i];
    CLI::Option* option =
        app.add_option(key.flag, values[i], key.help)
            ->type_name(key.takes)
            ->group(key.name.find('.') == std::string::npos ? "Places"
                                                            : key.name.substr(0, key.name.find('.')));
    option->expected(1)->multi_option_policy(key.is_list ? CLI::MultiOptionPolicy::TakeAll
                                                         : CLI::MultiOptionPolicy::TakeLast);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].empty()) continue;
    absl::StatusOr<Setting> setting = MakeSetting(ConfigKeys()[i], values[i], ConfigKeys()[i].flag);
    if (!setting.ok()) {
      fprintf(stderr, "keepstepd: %s\n", std::string(setting.status().message()).c_str());
      return 1;
    }
    source.flags_.push_back(*std::move(setting));
  }
  source.action_ = look ? Action::kLook : print ? Action::kPrint : check ? Action::kCheck : Action::kRun;
  return source;
}

std::vector<std::string> ConfigSource::root_flags() const {
  for (const Setting& flag : flags_) {
    if (flag.key->name == "roots") return flag.values;
  }
  return {};
}

std::string ConfigSource::File() const {
  if (!named_file_.empty()) return named_file_;
  if (std::string named = FromEnvironment("KEEPSTEP_CONFIG", ""); !named.empty()) return named;
  const std::string place = geteuid() == 0
                                ? kSystemFile
                                : FirstOf(FromEnvironment("XDG_CONFIG_HOME", kOwnFile),
                                          FromEnvironment("HOME", "/.config/keepstep/keepstep.yaml"));
  return !place.empty() && access(place.c_str(), F_OK) == 0 ? place : "";
}

absl::StatusOr<EffectiveConfig> ConfigSource::Load() const {
  auto file = FromFile(File());
  if (!file.ok()) return file.status();
  auto variables = FromVariables();
  if (!variables.ok()) return variables.status();
  auto effective = Combine(Defaults(), {*std::move(file), *std::move(variables), flags_});
  if (!effective.ok()) return effective.status();
  if (absl::Status status = CheckRoots(effective->config.daemon.roots); !status.ok()) return status;
  return effective;
}

}  // namespace keepstep::daemon
