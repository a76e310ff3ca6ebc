// The families of sub-commands. Each verb prints its result on stdout, progress and errors on stderr, and
// returns an exit code. main.cc adds them; each file defines what it adds, next to what it does.

#ifndef KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_
#define KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_

#include "client/command/program.h"

namespace keepstep::client {

void AddStatus(Program& program);      // status, top
void AddLook(Program& program);        // ls, show, tensors
void AddDiff(Program& program);        // diff
void AddWatch(Program& program);       // watch
void AddWhy(Program& program);         // why
void AddLogs(Program& program);        // logs
void AddSave(Program& program);        // save
void AddControl(Program& program);     // cancel, drain, reindex
void AddVerify(Program& program);      // verify
void AddRemove(Program& program);      // rm
void AddRetention(Program& program);   // gc, pin
void AddExport(Program& program);      // export: writes safetensors files, sharded by size, and an index
void AddImport(Program& program);      // import: commits safetensors files as one step
void AddUp(Program& program);          // up, down
void AddDoctor(Program& program);      // doctor
void AddBundle(Program& program);      // bundle
void AddBench(Program& program);       // bench
void AddCompletion(Program& program);  // completion
void AddVersion(Program& program);     // version

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_COMMANDS_H_
