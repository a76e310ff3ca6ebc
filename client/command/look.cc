// ls, show, tensors: what is stored.

#include <cstdio>
#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/tensor_list.h"

namespace keepstep::client {
namespace {

int64_t NowUnixMs() { return absl::ToUnixMillis(absl::Now()); }

std::string ShapeText(const google::protobuf::RepeatedField<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

v1::Component Or(v1::Component component) {
  return component == v1::COMPONENT_UNSPECIFIED ? v1::COMPONENT_MODEL : component;
}

std::string ComponentText(v1::Component component) {
  switch (Or(component)) {
    case v1::COMPONENT_OPTIMIZER:
      return "optimizer";
    case v1::COMPONENT_EXTRA:
      return "extra";
    default:
      return "model";
  }
}

int RunList(const Globals& globals, const std::string& job) {
  Name name;
  if (!job.empty()) {
    auto parsed = ParseName(job);
    if (!parsed.ok()) return Complain(parsed.status());
    name = *parsed;
  }
  auto daemon = Connection::For(globals, name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::ListRequest request;
  if (!name.is_directory) request.set_job(name.job);
  v1::ListResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->checkpoints().List(context.get(), request, &response); !status.ok()) {
    return Complain(status, "keepstep status");
  }
  if (globals.json) {
    PrintJson(response);
    return 0;
  }
  Table table({"CHECKPOINT", "COMMITTED", "EPOCH", "SIZE", "TENSORS", "RANKS", "NOTES"}, {2, 3, 4, 5});
  for (const v1::JobInfo& info : response.jobs()) {
    for (const v1::CheckpointInfo& checkpoint : info.checkpoints()) {
      const v1::Decision& decision = checkpoint.decision();
      table.Add({absl::StrCat(info.job(), "/", decision.step()),
                 HumanAge(decision.time_unix_ms(), NowUnixMs()), absl::StrCat(decision.epoch()),
                 HumanBytes(checkpoint.stored_bytes()), absl::StrCat(decision.tensor_count()),
                 absl::StrCat(decision.world_size()),
                 absl::StrCat(checkpoint.pinned() ? "pinned " : "", absl::StrJoin(decision.tags(), " "))});
    }
  }
  fputs(table.Render().c_str(), stdout);
  return 0;
}

int RunShow(const Globals& globals, const std::string& text) {
  auto name = ParseName(text);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::GetRequest request;
  *request.mutable_name() = ToProto(*name);
  v1::CheckpointInfo info;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->checkpoints().Get(context.get(), request, &info); !status.ok()) {
    return Complain(status, absl::StrCat("keepstep ls ", name->job));
  }
  if (globals.json) {
    PrintJson(info);
    return 0;
  }
  const v1::Decision& decision = info.decision();
  printf("%s/%ld\n", info.job().c_str(), static_cast<long>(decision.step()));
  printf("  committed   %s\n",
         absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixMillis(decision.time_unix_ms()),
                          absl::UTCTimeZone())
             .c_str());
  printf("  attempt     %s (epoch %ld)\n", decision.attempt().c_str(), static_cast<long>(decision.epoch()));
  printf("  tensors     %ld, %s\n", static_cast<long>(decision.tensor_count()),
         HumanBytes(decision.tensor_bytes()).c_str());
  printf("  stored      %s in %d part%s\n", HumanBytes(info.stored_bytes()).c_str(), decision.parts_size(),
         decision.parts_size() == 1 ? "" : "s");
  std::string mesh;
  for (int i = 0; i < decision.mesh().names_size(); ++i) {
    absl::StrAppend(&mesh, i == 0 ? "" : " x ", decision.mesh().names(i), "=", decision.mesh().sizes(i));
  }
  printf("  written by  %d rank%s%s%s, %s\n", decision.world_size(), decision.world_size() == 1 ? "" : "s",
         mesh.empty() ? "" : ", ", mesh.c_str(), decision.writer().c_str());
  printf("  layout      %s\n", decision.layout().c_str());
  for (const auto& [metric, value] : decision.metrics()) printf("  %-11s %g\n", metric.c_str(), value);
  if (decision.tags_size() > 0) printf("  tags        %s\n", absl::StrJoin(decision.tags(), " ").c_str());
  if (info.pinned()) printf("  pinned      yes\n");
  return 0;
}

int RunTensors(const Globals& globals, const std::string& text, const std::string& prefix) {
  auto name = ParseName(text);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::QueryTensorsResponse all;
  if (auto status = ListTensors(**daemon, *name, prefix, &all); !status.ok())
    return Complain(status, absl::StrCat("keepstep ls ", name->job));
  if (globals.json) {
    PrintJson(all);
    return 0;
  }
  Table table({"TENSOR", "DTYPE", "SHAPE", "IN", "PIECES", "SIZE"}, {4, 5});
  for (const v1::TensorInfo& info : all.tensors()) {
    int64_t size_bytes = 0;
    for (const v1::ExtentInfo& extent : info.extents()) size_bytes += extent.size_bytes();
    const v1::TensorMeta& meta = info.tensor().meta();
    table.Add({meta.fqn(), meta.dtype(), ShapeText(meta.shape()), ComponentText(meta.component()),
               absl::StrCat(info.extents_size()), HumanBytes(size_bytes)});
  }
  fputs(table.Render().c_str(), stdout);
  return 0;
}

}  // namespace

void AddLook(Program& program) {
  auto job = std::make_shared<std::string>(), name = std::make_shared<std::string>(),
       prefix = std::make_shared<std::string>();
  auto* list = program.Add(kSee, "ls", "Committed checkpoints, newest last",
                           [&program, job] { return RunList(program.globals(), *job); });
  list->add_option("JOB", *job, "Only this job");

  auto* show = program.Add(kSee, "show", "One checkpoint: when, how large, which layout",
                           [&program, name] { return RunShow(program.globals(), *name); });
  show->add_option("NAME", *name, "JOB/STEP or JOB/latest")->required();

  auto* tensors = program.Add(kSee, "tensors", "The tensors of a checkpoint", [&program, name, prefix] {
    return RunTensors(program.globals(), *name, *prefix);
  });
  tensors->add_option("NAME", *name, "JOB/STEP or JOB/latest")->required();
  tensors->add_option("PREFIX", *prefix, "Only names that begin so");
}

}  // namespace keepstep::client
