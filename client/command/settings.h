// What `keepstepd --print-config` says, as far as one who starts it needs to know.

#ifndef KEEPSTEP_CLIENT_COMMAND_SETTINGS_H_
#define KEEPSTEP_CLIENT_COMMAND_SETTINGS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace keepstep::client {

struct Printed {
  std::string value;
  bool is_default = true;
};

// `key` as in docs/configuration.md: "exit.idle". An empty value where it is not printed.
Printed FindSetting(absl::string_view printed, absl::string_view key);

// Of statfs(2): other machines see the same files.
bool IsNetworkFileSystem(int64_t type);

// Where `directory` is, or would be made. False where nothing can be told.
bool IsOnNetwork(const std::string& directory);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_SETTINGS_H_
