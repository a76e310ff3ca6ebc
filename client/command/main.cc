// The `keepstep` command: parses, calls one sub-command, exits with its code.

#include <CLI/CLI.hpp>

#include "client/command/commands.h"
#include "client/command/format.h"

namespace {

constexpr char kFooter[] =
    "Names: JOB/STEP, JOB/latest, or a job's directory with or without /STEP.\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 not found, 5 damaged, 6 timeout.\n"
    "First steps: keepstep doctor; keepstep ls; keepstep show JOB/latest";

}  // namespace

int main(int argc, char** argv) {
  using namespace keepstep::client;  // NOLINT: the program's own namespace
  CLI::App app{"Looks after training checkpoints that keepstepd keeps."};
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  Globals globals;
  app.add_option("--address", globals.address,
                 "Daemon, as unix:///path/keepstep.sock (default: $KEEPSTEP_ADDR)");
  app.add_flag("--json", globals.json, "Machine-readable output on stdout");
  double timeout_seconds = globals.timeout_ms / 1000.0;
  app.add_option("--timeout", timeout_seconds, "Seconds to wait for an answer")->capture_default_str();

  int exit_code = 0;
  std::string name, job, prefix, max_shard = "5GB";
  RemoveOptions remove;
  ExportOptions exporting;
  ImportOptions importing;
  const auto on = [&](CLI::App* command, auto run) {
    command->callback([&, run] {
      globals.timeout_ms = static_cast<int64_t>(timeout_seconds * 1000);
      exit_code = run();
    });
  };

  on(app.add_subcommand("status", "The daemon, its jobs, and what is in flight"),
     [&] { return RunStatus(globals); });

  auto* list = app.add_subcommand("ls", "Committed checkpoints, newest last");
  list->add_option("JOB", job, "Only this job");
  on(list, [&] { return RunList(globals, job); });

  auto* show = app.add_subcommand("show", "One checkpoint: when, how large, which layout");
  show->add_option("NAME", name, "JOB/STEP or JOB/latest")->required();
  on(show, [&] { return RunShow(globals, name); });

  auto* tensors = app.add_subcommand("tensors", "The tensors of a checkpoint");
  tensors->add_option("NAME", name, "JOB/STEP or JOB/latest")->required();
  tensors->add_option("PREFIX", prefix, "Only names that begin so");
  on(tensors, [&] { return RunTensors(globals, name, prefix); });

  auto* verify = app.add_subcommand("verify", "Read everything from storage and check every digest");
  verify->add_option("NAME", name, "JOB/STEP or JOB/latest")->required();
  on(verify, [&] { return RunVerify(globals, name); });

  auto* save_as = app.add_subcommand("export", "Write safetensors files that other tools load");
  save_as->add_option("NAME", exporting.name, "JOB/STEP or JOB/latest")->required();
  save_as->add_option("DIRECTORY", exporting.destination, "Where the files go; made when missing")
      ->required();
  save_as->add_option("--component", exporting.component, "model, optimizer or all")
      ->check(CLI::IsMember({"model", "optimizer", "all"}))
      ->capture_default_str();
  save_as->add_option("--max-shard-size", max_shard, "Largest file")->capture_default_str();
  save_as->add_flag("--force", exporting.force, "Replace files that are there");
  on(save_as, [&] {
    exporting.max_shard_bytes = ParseBytes(max_shard);
    if (exporting.max_shard_bytes <= 0) {
      return Complain(absl::InvalidArgumentError(max_shard + " is not a size; write 5GB or 512MiB"));
    }
    return RunExport(globals, exporting);
  });

  auto* take_in = app.add_subcommand("import", "Commit published safetensors files as one step");
  take_in
      ->add_option("SOURCE", importing.source,
                   "A .safetensors file, an index.json, or a directory with either")
      ->required();
  take_in->add_option("NAME", importing.name, "DIRECTORY/STEP, or JOB/STEP of a job that the daemon knows")
      ->required();
  on(take_in, [&] { return RunImport(globals, importing); });

  auto* rm = app.add_subcommand("rm", "Delete one checkpoint; shows the plan and asks");
  rm->add_option("NAME", remove.name, "JOB/STEP")->required();
  rm->add_flag("--yes,-y", remove.yes, "Do not ask");
  rm->add_flag("--dry-run,-n", remove.dry_run, "Only show the plan");
  rm->add_flag("--allow-last", remove.allow_last, "Also when it is the job's last good checkpoint");
  on(rm, [&] { return RunRemove(globals, remove); });

  on(app.add_subcommand("doctor", "What this machine allows, and how to mend the rest"),
     [&] { return RunDoctor(globals); });
  on(app.add_subcommand("version", "Versions of the command and of the daemon"),
     [&] { return RunVersion(globals); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  return exit_code;
}
