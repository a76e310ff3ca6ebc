#include "daemon/device/child_process.h"

#include <signal.h>
#include <spawn.h>

#include <cstring>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace keepstep::daemon {

absl::StatusOr<pid_t> SpawnChild(const std::vector<std::string>& command, int socket, int as) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, as);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == 0) return pid;
  return absl::ResourceExhaustedError(absl::StrCat("starting ", command[0], ": ", strerror(error)));
}

}  // namespace keepstep::daemon
