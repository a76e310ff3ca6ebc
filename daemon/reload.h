// SIGHUP: reads the configuration anew, applies what can change while the daemon runs, says what needs a
// restart.

#ifndef KEEPSTEP_DAEMON_RELOAD_H_
#define KEEPSTEP_DAEMON_RELOAD_H_

#include "daemon/config.h"
#include "daemon/config_source.h"
#include "daemon/daemon.h"

namespace keepstep::daemon {

// The configuration in effect from now on. A bad one changes nothing: the log says what is wrong and
// `current` comes back. Keys that need a restart keep their value in what comes back, so that the next reload
// names them again.
Config Reload(const ConfigSource& source, const Config& current, Daemon& daemon);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RELOAD_H_
