// The `keepstep` command: parses, calls one sub-command, exits with its code.

#include "client/command/commands.h"

int main(int argc, char** argv) {
  using namespace keepstep::client;  // NOLINT: the program's own namespace
  Program program;
  AddStatus(program);
  AddLook(program);
  AddDiff(program);
  AddWatch(program);
  AddWhy(program);
  AddLogs(program);
  AddSave(program);
  AddControl(program);
  AddVerify(program);
  AddRemove(program);
  AddRetention(program);
  AddExport(program);
  AddImport(program);
  AddUp(program);
  AddDoctor(program);
  AddBench(program);
  AddBundle(program);
  AddCompletion(program);
  AddVersion(program);
  return program.Run(argc, argv);
}
