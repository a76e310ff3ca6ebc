// completion: prints a completion script, or the names that one offers.

#include <cstdio>
#include <memory>
#include <string>

#include "client/command/commands.h"
#include "client/command/completion.h"

namespace keepstep::client {
namespace {

constexpr int64_t kNamesTimeoutMs = 2000;  // somebody waits at a prompt

int PrintNames(Globals globals) {
  globals.timeout_ms = kNamesTimeoutMs;
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::ListResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->checkpoints().List(context.get(), {}, &response); !status.ok())
    return Complain(status);
  for (const v1::JobInfo& job : response.jobs()) {
    printf("%s\n", job.job().c_str());
    for (const v1::CheckpointInfo& checkpoint : job.checkpoints())
      printf("%s/%ld\n", job.job().c_str(), static_cast<long>(checkpoint.decision().step()));
  }
  return 0;
}

int RunCompletion(const Program& program, const std::string& shell) {
  if (shell == "names") return PrintNames(program.globals());
  const CompletionTree tree = TreeOf(program.tree());
  fputs((shell == "bash"  ? BashCompletion(tree)
         : shell == "zsh" ? ZshCompletion(tree)
                          : FishCompletion(tree))
            .c_str(),
        stdout);
  return 0;
}

}  // namespace

void AddCompletion(Program& program) {
  auto shell = std::make_shared<std::string>();
  auto* completion =
      program.Add(kRun, "completion", "A completion script: eval \"$(keepstep completion bash)\"",
                  [&program, shell] { return RunCompletion(program, *shell); });
  completion->add_option("SHELL", *shell, "bash, zsh, fish; names prints what they offer for jobs")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "names"}));
}

}  // namespace keepstep::client
