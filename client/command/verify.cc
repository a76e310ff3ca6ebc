// verify: reads a checkpoint from storage and checks every digest.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"

namespace keepstep::client {
namespace {

int RunVerify(const Globals& globals, const std::string& text) {
  auto name = ParseName(text);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::VerifyRequest request;
  *request.mutable_name() = ToProto(*name);
  const auto context = (*daemon)->Context();
  auto stream = (*daemon)->checkpoints().Verify(context.get(), request);
  Progress progress("verify");
  v1::VerifyEvent event, last;
  int damaged = 0;
  while (stream->Read(&event)) {
    progress.Update(event.bytes_done(), event.bytes_total());
    if (event.has_damage()) {
      ++damaged;
      const v1::Damage& damage = event.damage();
      if (!globals.json) {
        printf("DAMAGED %s: %s, bytes %ld..%ld: %s\n", damage.blob().c_str(), damage.fqn().c_str(),
               static_cast<long>(damage.offset_bytes()),
               static_cast<long>(damage.offset_bytes() + damage.size_bytes()), damage.message().c_str());
      }
    }
    if (globals.json && (event.has_damage() || event.finished())) PrintJson(event);
    last = event;
  }
  const grpc::Status status = stream->Finish();
  if (damaged > 0) {
    fprintf(stderr, "keepstep: %d damaged piece%s in %s/%ld. Load an earlier step: keepstep ls %s\n", damaged,
            damaged == 1 ? "" : "s", name->job.c_str(), static_cast<long>(last.step()), name->job.c_str());
    return kExitDamaged;
  }
  if (!status.ok()) return Complain(status, absl::StrCat("keepstep ls ", name->job));
  if (!globals.json) {
    printf("%s/%ld: %s in %ld blocks read from storage, every digest matches\n", name->job.c_str(),
           static_cast<long>(last.step()), HumanBytes(last.bytes_done()).c_str(),
           static_cast<long>(last.blocks_done()));
  }
  return 0;
}

}  // namespace

void AddVerify(Program& program) {
  auto name = std::make_shared<std::string>();
  auto* verify = program.Add(kAct, "verify", "Read everything from storage and check every digest",
                             [&program, name] { return RunVerify(program.globals(), *name); });
  verify->add_option("NAME", *name, "JOB/STEP or JOB/latest")->required();
}

}  // namespace keepstep::client
