// diff: what changed from one checkpoint to another, by digests.

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/tensor_diff.h"
#include "client/command/tensor_list.h"
#include "client/grpc_status.h"

namespace keepstep::client {
namespace {

// The tensors of `text`, which gets its step: "vit/800".
absl::StatusOr<std::vector<v1::TensorInfo>> Tensors(const Globals& globals, std::string& text) {
  auto name = ParseName(text);
  if (!name.ok()) return name.status();
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return daemon.status();
  v1::QueryTensorsResponse all;
  if (const grpc::Status status = ListTensors(**daemon, *name, "", &all); !status.ok())
    return FromGrpc(status);
  text = absl::StrCat(name->job, "/", all.step());
  return std::vector<v1::TensorInfo>(all.tensors().begin(), all.tensors().end());
}

void Print(const Globals& globals, const std::string& from, const std::string& to, const TensorDiff& diff) {
  if (globals.json) {
    nlohmann::ordered_json out = {
        {"from", from}, {"to", to}, {"same", diff.same}, {"changes", nlohmann::ordered_json::array()}};
    for (const TensorChange& change : diff.changes) {
      out["changes"].push_back({{"tensor", change.fqn},
                                {"change", KindName(change.kind)},
                                {"from", change.from},
                                {"to", change.to}});
    }
    printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  if (!diff.changes.empty()) {
    Table table({"TENSOR", "CHANGE", from, to});
    for (const TensorChange& change : diff.changes)
      table.Add({change.fqn, KindName(change.kind), change.from.empty() ? "-" : change.from,
                 change.to.empty() ? "-" : change.to});
    fputs(table.Render().c_str(), stdout);
  }
  printf("%zu of %zu tensors differ from %s to %s\n", diff.changes.size(),
         diff.changes.size() + static_cast<size_t>(diff.same), from.c_str(), to.c_str());
}

int RunDiff(const Globals& globals, std::string from, std::string to) {
  auto a = Tensors(globals, from);
  if (!a.ok()) return Complain(a.status(), "keepstep ls");
  auto b = Tensors(globals, to);
  if (!b.ok()) return Complain(b.status(), "keepstep ls");
  Print(globals, from, to, DiffTensors(*a, *b));
  return 0;
}

}  // namespace

void AddDiff(Program& program) {
  auto from = std::make_shared<std::string>(), to = std::make_shared<std::string>();
  auto* diff = program.Add(kSee, "diff", "Which tensors differ between two checkpoints",
                           [&program, from, to] { return RunDiff(program.globals(), *from, *to); });
  diff->add_option("A", *from, "JOB/STEP or JOB/latest")->required();
  diff->add_option("B", *to, "JOB/STEP or JOB/latest")->required();
}

}  // namespace keepstep::client
