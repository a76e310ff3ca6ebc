// why: what is wrong, in the words of the status page, the alerts and the log.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command/commands.h"
#include "client/command/format.h"

namespace keepstep::client {
namespace {

void Print(const v1::Problem& problem, bool named) {
  if (named) {
    printf("%s%s: ", problem.job().c_str(),
           problem.step() >= 0 ? absl::StrCat("/", problem.step()).c_str() : "");
  }
  printf("%s\n", problem.sentence().c_str());
  for (const std::string& line : problem.details()) printf("%s\n", line.c_str());
  if (!problem.next().empty()) printf("Next: %s\n", absl::StrJoin(problem.next(), "   ").c_str());
}

int RunWhy(const Globals& globals, const std::string& text) {
  Name name;
  if (!text.empty()) {
    auto parsed = ParseName(text);
    if (!parsed.ok()) return Complain(parsed.status());
    name = *parsed;
  }
  auto daemon = Connection::For(globals, name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::WhyRequest request;
  if (!name.is_directory) request.set_job(name.job);
  if (name.step.has_value()) request.set_step(*name.step);
  v1::WhyResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().Why(context.get(), request, &response); !status.ok()) {
    return Complain(status, name.job.empty() ? "keepstep status" : absl::StrCat("keepstep ls ", name.job));
  }
  if (globals.json) {
    PrintJson(response);
    return 0;
  }
  if (response.problems().empty())
    printf("Nothing is wrong%s%s.\n", text.empty() ? "" : " with ", text.c_str());
  const bool named = !name.step.has_value() && (text.empty() || response.problems_size() > 1);
  for (int i = 0; i < response.problems_size(); ++i) {
    if (i > 0) printf("\n");
    Print(response.problems(i), named);
  }
  return 0;
}

}  // namespace

void AddWhy(Program& program) {
  auto name = std::make_shared<std::string>();
  auto* why = program.Add(kSee, "why", "What is wrong, its cause, and what to do next",
                          [&program, name] { return RunWhy(program.globals(), *name); });
  why->add_option("NAME", *name, "JOB, or JOB/STEP (default: every job)");
}

}  // namespace keepstep::client
