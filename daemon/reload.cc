#include "daemon/reload.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {

Config Reload(const ConfigSource& source, const Config& current, Daemon& daemon) {
  auto loaded = source.Load();
  if (!loaded.ok()) {
    daemon.log().Write(Log::Level::kError, "configuration not reloaded; the old one stays in effect",
                       {{"why", std::string(loaded.status().message())}});
    return current;
  }
  Config next = current;
  std::vector<ConfigChange> applied, waiting;
  for (ConfigChange& change : Differences(current, loaded->config)) {
    if (!change.key->reloads) {
      waiting.push_back(std::move(change));
      continue;
    }
    if (change.key->set(change.key->get(loaded->config), next).ok()) applied.push_back(std::move(change));
  }
  for (const ConfigChange& change : waiting)
    loaded->sources[change.key->name] = absl::StrCat("until a restart, then ", change.to);
  next.daemon.config_text = PrintConfig({.config = next, .sources = std::move(loaded->sources)});
  daemon.Reconfigure(next.daemon);
  daemon.log().Info("configuration reloaded", {{"file", source.File()},
                                               {"changed", absl::StrCat(applied.size())},
                                               {"need_restart", absl::StrCat(waiting.size())}});
  for (const ConfigChange& change : applied)
    daemon.log().Info("changed", {{"key", change.key->name}, {"from", change.from}, {"to", change.to}});
  for (const ConfigChange& change : waiting) {
    daemon.log().Warn("changed in the configuration, but needs a restart",
                      {{"key", change.key->name}, {"in_effect", change.from}, {"configured", change.to}});
  }
  return next;
}

}  // namespace keepstep::daemon
