// Completion scripts for shells, made from the parsed command tree: what the command takes is what they
// offer.

#ifndef KEEPSTEP_CLIENT_COMMAND_COMPLETION_H_
#define KEEPSTEP_CLIENT_COMMAND_COMPLETION_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace keepstep::client {

struct CompletionOption {
  std::vector<std::string> spellings;  // "--follow", "-f"
  std::string what;
  bool takes_value = false;
  std::vector<std::string> choices;  // of its value; empty: anything
};

struct CompletionVerb {
  std::string name, what;
  std::vector<CompletionOption> options;
  std::vector<std::string> positionals;  // "JOB", "NAME", "DIRECTORY", …
  std::vector<std::string> choices;      // of the first positional
};

struct CompletionTree {
  std::vector<CompletionOption> options;  // before or after the verb
  std::vector<CompletionVerb> verbs;
};

CompletionTree TreeOf(const CLI::App& app);

std::string BashCompletion(const CompletionTree& tree);
std::string ZshCompletion(const CompletionTree& tree);
std::string FishCompletion(const CompletionTree& tree);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_COMPLETION_H_
