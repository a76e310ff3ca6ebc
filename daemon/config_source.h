// Where a daemon's configuration comes from: the command line, the environment, one file.

#ifndef KEEPSTEP_DAEMON_CONFIG_SOURCE_H_
#define KEEPSTEP_DAEMON_CONFIG_SOURCE_H_

#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/config.h"

namespace keepstep::daemon {

class ConfigSource {
 public:
  enum class Action { kRun, kCheck, kPrint, kLook };

  // An exit status instead where there is nothing to run: help, version, a usage error (said on stderr).
  static std::variant<ConfigSource, int> FromCommandLine(int argc, char** argv);

  Action action() const { return action_; }
  std::vector<std::string> root_flags() const;  // for kLook, which no other setting changes
  // --config, or KEEPSTEP_CONFIG, or, if it is there, root's /etc/keepstep/keepstep.yaml or another user's
  // $XDG_CONFIG_HOME/keepstep/keepstep.yaml. "" when there is none.
  std::string File() const;

  // Reads the file anew and combines. The status is one line; INVALID_ARGUMENT, or NOT_FOUND and others for a
  // file that was named and cannot be read, or a root that is no directory.
  absl::StatusOr<EffectiveConfig> Load() const;

 private:
  Action action_ = Action::kRun;
  std::string named_file_;
  std::vector<Setting> flags_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CONFIG_SOURCE_H_
