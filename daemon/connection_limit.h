// Who may still connect: a limit on all, and one on each user, so that one user cannot shut the others out.

#ifndef KEEPSTEP_DAEMON_CONNECTION_LIMIT_H_
#define KEEPSTEP_DAEMON_CONNECTION_LIMIT_H_

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>

namespace keepstep::daemon {

// Whether one more connection of `user` is too many. The last quarter of `limit` is for others; root and the
// daemon's own user may have it.
inline bool TooManyOf(uid_t user, int of_user, int of_all, int limit) {
  const bool trusted = user == 0 || user == geteuid();
  return of_all >= limit || (!trusted && of_user >= std::max(1, limit / 4 * 3));
}

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CONNECTION_LIMIT_H_
