// The sub-commands. Each prints its result on stdout, progress and errors on stderr, and returns an exit
// code.

#ifndef KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_
#define KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_

#include <cstdint>
#include <string>

#include "client/command/connection.h"

namespace keepstep::client {

int RunStatus(const Globals& globals);
int RunList(const Globals& globals, const std::string& job);
int RunShow(const Globals& globals, const std::string& name);
int RunTensors(const Globals& globals, const std::string& name, const std::string& prefix);
int RunVerify(const Globals& globals, const std::string& name);
int RunDoctor(const Globals& globals);
int RunVersion(const Globals& globals);

struct RemoveOptions {
  std::string name;
  bool yes = false, dry_run = false, allow_last = false;
};
int RunRemove(const Globals& globals, const RemoveOptions& options);

struct ExportOptions {
  std::string name, destination;
  std::string component = "model";  // model, optimizer, all
  int64_t max_shard_bytes = 5'000'000'000;
  bool force = false;
};
// Writes safetensors files, sharded by size, and model.safetensors.index.json when there are several.
int RunExport(const Globals& globals, const ExportOptions& options);

struct ImportOptions {
  std::string source, name;
};
// Reads one safetensors file, an index, or a directory that holds either, and commits it as one step.
int RunImport(const Globals& globals, const ImportOptions& options);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_
