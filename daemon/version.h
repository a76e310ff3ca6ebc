// The daemon's version, as clients, records on storage and people see it.

#ifndef KEEPSTEP_DAEMON_VERSION_H_
#define KEEPSTEP_DAEMON_VERSION_H_

namespace keepstep::daemon {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_VERSION_H_
