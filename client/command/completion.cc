#include "client/command/completion.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace keepstep::client {
namespace {

// A value's choices as CLI11 describes them: "TEXT:{model,optimizer,all}".
std::vector<std::string> Choices(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t open = type.find('{'), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos || close <= open) return {};
  return absl::StrSplit(type.substr(open + 1, close - open - 1), ',');
}

CompletionOption OptionOf(const CLI::Option& option) {
  CompletionOption out;
  for (const std::string& name : option.get_lnames()) out.spellings.push_back(absl::StrCat("--", name));
  for (const std::string& name : option.get_snames()) out.spellings.push_back(absl::StrCat("-", name));
  out.what = option.get_description();
  out.takes_value = option.get_items_expected_max() > 0;
  out.choices = Choices(option);
  return out;
}

std::vector<CompletionOption> OptionsOf(const CLI::App& app) {
  std::vector<CompletionOption> out;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) out.push_back(OptionOf(*option));
  }
  return out;
}

std::vector<std::string> Spellings(const std::vector<CompletionOption>& options) {
  std::vector<std::string> all;
  for (const CompletionOption& option : options)
    all.insert(all.end(), option.spellings.begin(), option.spellings.end());
  return all;
}

// Options whose next word is theirs, of every verb.
std::set<std::string> WithValue(const CompletionTree& tree) {
  std::set<std::string> all;
  const auto add = [&](const std::vector<CompletionOption>& options) {
    for (const CompletionOption& option : options) {
      if (option.takes_value) all.insert(option.spellings.begin(), option.spellings.end());
    }
  };
  add(tree.options);
  for (const CompletionVerb& verb : tree.verbs) add(verb.options);
  return all;
}

// Whether a positional means a job or a checkpoint: the daemon knows those.
bool NamesJob(const CompletionVerb& verb) {
  return !verb.positionals.empty() &&
         (verb.positionals[0] == "JOB" || verb.positionals[0] == "NAME" || verb.positionals[0] == "A");
}

std::string Quote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace

CompletionTree TreeOf(const CLI::App& app) {
  CompletionTree tree{.options = OptionsOf(app)};
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    CompletionVerb verb{.name = command->get_name(), .what = command->get_description()};
    verb.options = OptionsOf(*command);
    for (const CLI::Option* option : command->get_options()) {
      if (!option->get_positional()) continue;
      if (verb.positionals.empty()) verb.choices = Choices(*option);
      verb.positionals.push_back(option->get_name());
    }
    tree.verbs.push_back(std::move(verb));
  }
  return tree;
}

// The verb is the first word that is neither an option nor an option's value. Then: options where the word
// begins so, the choices of the option before, names that the daemon knows, else files.
std::string BashCompletion(const CompletionTree& tree) {
  std::vector<std::string> verbs;
  for (const CompletionVerb& verb : tree.verbs) verbs.push_back(verb.name);
  std::string out = absl::StrCat(
      "# bash completion for keepstep: eval \"$(keepstep completion bash)\"\n"
      "_keepstep() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb= i\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    case ${COMP_WORDS[i]} in\n"
      "      ",
      absl::StrJoin(WithValue(tree), "|"),
      ") ((++i)) ;;\n"
      "      -*) ;;\n"
      "      *) verb=${COMP_WORDS[i]}; break ;;\n"
      "    esac\n"
      "  done\n"
      "  COMPREPLY=()\n"
      "  local options=",
      Quote(absl::StrJoin(Spellings(tree.options), " ")),
      " words= names=\n"
      "  case $verb in\n"
      "    '') words=",
      Quote(absl::StrJoin(verbs, " ")), " ;;\n");
  for (const CompletionVerb& verb : tree.verbs) {
    absl::StrAppend(&out, "    ", verb.name, ")\n      options+=",
                    Quote(absl::StrCat(" ", absl::StrJoin(Spellings(verb.options), " "))), "\n");
    for (const CompletionOption& option : verb.options) {
      if (option.choices.empty()) continue;
      absl::StrAppend(&out, "      case $before in ", absl::StrJoin(option.spellings, "|"),
                      ") COMPREPLY=($(compgen -W ", Quote(absl::StrJoin(option.choices, " ")),
                      " -- \"$word\")); return ;; esac\n");
    }
    if (!verb.choices.empty())
      absl::StrAppend(&out, "      words=", Quote(absl::StrJoin(verb.choices, " ")), "\n");
    if (NamesJob(verb)) absl::StrAppend(&out, "      names=1\n");
    absl::StrAppend(&out, "      ;;\n");
  }
  absl::StrAppend(
      &out,
      "  esac\n"
      "  if [[ $word == -* ]]; then words=$options; names=; fi\n"
      "  if [[ -z $names ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$word\")); return; fi\n"
      "  while IFS= read -r names; do\n"  // never through compgen -W: it expands what a name holds
      "    [[ $names != \"$word\"* ]] || COMPREPLY+=(\"$(printf %q \"$names\")\")\n"
      "  done < <(\"${COMP_WORDS[0]}\" completion names 2>/dev/null)\n"
      "}\n"
      "complete -o default -F _keepstep keepstep\n");
  return out;
}

std::string ZshCompletion(const CompletionTree& tree) {
  const auto describe = [](const std::string& name, const std::string& what) {
    return Quote(absl::StrCat(name, ":", absl::StrReplaceAll(what, {{":", "\\:"}})));
  };
  std::string out =
      "#compdef keepstep\n"
      "# zsh completion for keepstep: eval \"$(keepstep completion zsh)\"\n"
      "_keepstep() {\n"
      "  local -a verbs options\n"
      "  local verb= i\n"
      "  for ((i = 2; i < CURRENT; ++i)); do\n"
      "    case ${words[i]} in\n";
  absl::StrAppend(&out, "      ", absl::StrJoin(WithValue(tree), "|"), ") ((++i)) ;;\n",
                  "      -*) ;;\n"
                  "      *) verb=${words[i]}; break ;;\n"
                  "    esac\n"
                  "  done\n"
                  "  verbs=(\n");
  for (const CompletionVerb& verb : tree.verbs)
    absl::StrAppend(&out, "    ", describe(verb.name, verb.what), "\n");
  absl::StrAppend(&out, "  )\n  options=(");
  for (const CompletionOption& option : tree.options) {
    for (const std::string& name : option.spellings)
      absl::StrAppend(&out, "\n    ", describe(name, option.what));
  }
  absl::StrAppend(
      &out, "\n  )\n  case $verb in\n    '') [[ $PREFIX == -* ]] || { _describe verb verbs; return } ;;\n");
  for (const CompletionVerb& verb : tree.verbs) {
    absl::StrAppend(&out, "    ", verb.name, ")\n      options+=(");
    for (const CompletionOption& option : verb.options) {
      for (const std::string& name : option.spellings)
        absl::StrAppend(&out, " ", describe(name, option.what));
    }
    absl::StrAppend(&out, " )\n");
    if (!verb.choices.empty()) {
      absl::StrAppend(&out, "      [[ $PREFIX == -* ]] || { compadd ", absl::StrJoin(verb.choices, " "),
                      "; return }\n");
    } else if (NamesJob(verb)) {
      absl::StrAppend(&out,
                      "      [[ $PREFIX == -* ]] || { compadd -- ${(f)\"$(keepstep completion names "
                      "2>/dev/null)\"}; _files; return }\n");
    }
    absl::StrAppend(&out, "      ;;\n");
  }
  absl::StrAppend(&out,
                  "  esac\n"
                  "  if [[ $PREFIX == -* ]]; then _describe option options; else _files; fi\n"
                  "}\n"
                  "compdef _keepstep keepstep\n");
  return out;
}

std::string FishCompletion(const CompletionTree& tree) {
  std::string out = "# fish completion for keepstep: keepstep completion fish | source\n";
  const auto options = [&](const std::vector<CompletionOption>& list, const std::string& when) {
    for (const CompletionOption& option : list) {
      absl::StrAppend(&out, "complete -c keepstep", when.empty() ? "" : absl::StrCat(" -n ", Quote(when)));
      for (const std::string& name : option.spellings) {
        absl::StrAppend(&out, absl::StartsWith(name, "--") ? " -l " : " -s ",
                        name.substr(absl::StartsWith(name, "--") ? 2 : 1));
      }
      if (option.takes_value) absl::StrAppend(&out, " -r");
      if (!option.choices.empty())
        absl::StrAppend(&out, " -f -a ", Quote(absl::StrJoin(option.choices, " ")));
      absl::StrAppend(&out, " -d ", Quote(option.what), "\n");
    }
  };
  options(tree.options, "");
  for (const CompletionVerb& verb : tree.verbs) {
    const std::string after = absl::StrCat("__fish_seen_subcommand_from ", verb.name);
    absl::StrAppend(&out, "complete -c keepstep -n __fish_use_subcommand -f -a ", verb.name, " -d ",
                    Quote(verb.what), "\n");
    options(verb.options, after);
    if (!verb.choices.empty())
      absl::StrAppend(&out, "complete -c keepstep -n ", Quote(after), " -f -a ",
                      Quote(absl::StrJoin(verb.choices, " ")), "\n");
    if (NamesJob(verb))
      absl::StrAppend(&out, "complete -c keepstep -n ", Quote(after),
                      " -a '(keepstep completion names 2>/dev/null)'\n");
  }
  return out;
}

}  // namespace keepstep::client
