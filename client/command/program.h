// The command's frame: global flags, sub-commands, one exit code. Each family of verbs adds its own.

#ifndef KEEPSTEP_CLIENT_COMMAND_PROGRAM_H_
#define KEEPSTEP_CLIENT_COMMAND_PROGRAM_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "client/command/connection.h"

namespace keepstep::client {

inline constexpr char kSee[] = "See", kAct[] = "Act", kRun[] = "Run";  // how --help groups the verbs

class Program {
 public:
  Program();

  // A sub-command. `run` is called at most once, after parsing; what it returns is the exit code. What it
  // captures outlives parsing (shared_ptr), as do the variables that options write to.
  CLI::App* Add(const char* group, const std::string& name, const std::string& what,
                std::function<int()> run);

  const Globals& globals() const { return globals_; }  // filled by parsing
  const CLI::App& tree() const { return app_; }        // for completion

  int Run(int argc, char** argv);

 private:
  CLI::App app_;
  Globals globals_;
  double timeout_seconds_;
  std::function<int()> chosen_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_PROGRAM_H_
