// The `keepstep` command: parses, calls one sub-command, exits with its code.

#include "client/command/commands.h"

int main(int argc, char** argv) {
  using namespace keepstep::client;  // NOLINT: the program's own namespace
  Program program;
  AddStatus(program);
  AddLook(program);
  AddWhy(program);
  AddVerify(program);
  AddRemove(program);
  AddExport(program);
  AddImport(program);
  AddDoctor(program);
  AddVersion(program);
  return program.Run(argc, argv);
}
