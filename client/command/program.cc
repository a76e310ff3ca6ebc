#include "client/command/program.h"

#include <utility>

namespace keepstep::client {
namespace {

constexpr char kFooter[] =
    "Names: JOB/STEP, JOB/latest, or a job's directory with or without /STEP.\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 not found, 5 damaged, 6 timeout.\n"
    "First steps: keepstep doctor; keepstep ls; keepstep show JOB/latest";

}  // namespace

Program::Program()
    : app_("Looks after training checkpoints that keepstepd keeps.", "keepstep"),
      timeout_seconds_(static_cast<double>(globals_.timeout_ms) / 1000) {
  app_.footer(kFooter);
  app_.require_subcommand(1);
  app_.fallthrough();
  app_.add_option("--address", globals_.address,
                  "Daemon, as unix:///path/keepstep.sock (default: $KEEPSTEP_ADDR)");
  app_.add_option("--root", globals_.roots,
                  "Look at the jobs beneath this directory without a daemon (repeatable)")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app_.add_flag("--json", globals_.json, "Machine-readable output on stdout");
  app_.add_option("--timeout", timeout_seconds_, "Seconds to wait for an answer")->capture_default_str();
}

CLI::App* Program::Add(const char* group, const std::string& name, const std::string& what,
                       std::function<int()> run) {
  CLI::App* command = app_.add_subcommand(name, what);
  command->group(group);
  command->callback([this, run = std::move(run)] { chosen_ = run; });
  return command;
}

int Program::Run(int argc, char** argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app_.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  globals_.timeout_ms = static_cast<int64_t>(timeout_seconds_ * 1000);
  return chosen_();
}

}  // namespace keepstep::client
