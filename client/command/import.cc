// import: published safetensors become one committed step, streamed through Begin, Write and Commit.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/safetensors_file.h"

namespace keepstep::client {
namespace {

struct ImportOptions {
  std::string source, name;
};

constexpr int64_t kChunkBytes = int64_t{1} << 20;

v1::BeginRequest MakeBegin(const Name& name, const std::vector<SafetensorsFile>& files,
                           const std::string& source) {
  v1::BeginRequest request;
  if (!name.is_directory) request.set_job(name.job);
  request.set_step(*name.step);
  request.add_tags("imported");
  for (const SafetensorsFile& file : files) {
    for (const storage::HeaderEntry& entry : file.header.entries) {
      v1::Shard* shard = request.add_shards();
      v1::TensorMeta* meta = shard->mutable_meta();
      meta->set_fqn(entry.name);
      meta->set_dtype(std::string(reshard::DTypeName(entry.dtype)));
      meta->set_component(v1::COMPONENT_MODEL);
      v1::Box* box = shard->mutable_boxes()->add_boxes()->mutable_box();
      for (int64_t extent : entry.global_shape) {
        meta->add_shape(extent);
        box->add_origin(0);
        box->add_shape(extent);
      }
    }
  }
  return request;
}

// Sends every tensor's bytes in order. A local error ends the stream early; the caller aborts the attempt.
absl::Status SendAll(const std::string& attempt, const std::vector<SafetensorsFile>& files,
                     int64_t total_bytes, grpc::ClientWriter<v1::WriteChunk>* writer) {
  Progress progress("import");
  int64_t sent_bytes = 0;
  v1::WriteChunk chunk;
  chunk.set_attempt(attempt);
  for (const SafetensorsFile& file : files) {
    for (const storage::HeaderEntry& entry : file.header.entries) {
      const int64_t size_bytes = entry.end_bytes - entry.begin_bytes;
      for (int64_t offset = 0; offset < size_bytes; offset += kChunkBytes) {
        const int64_t count = std::min(kChunkBytes, size_bytes - offset);
        chunk.set_fqn(entry.name);
        chunk.set_box(0);
        chunk.set_offset_bytes(offset);
        chunk.mutable_data()->resize(count);
        const int64_t from = file.header.header_bytes + entry.begin_bytes + offset;
        const auto status =
            ReadFully(file.fd.get(), file.path, from, absl::MakeSpan(chunk.mutable_data()->data(), count));
        if (!status.ok()) return status;
        if (!writer->Write(chunk)) return absl::OkStatus();  // Finish says why
        chunk.clear_attempt();
        sent_bytes += count;
        progress.Update(sent_bytes, total_bytes);
      }
    }
  }
  return absl::OkStatus();
}

void AbortAttempt(const Connection& daemon, const std::string& attempt) {
  v1::AbortRequest request;
  request.set_attempt(attempt);
  v1::AbortResponse response;
  const auto context = daemon.Context();
  if (const auto status = daemon.checkpoints().Abort(context.get(), request, &response); !status.ok()) {
    Complain(status, "keepstep status");
  }
}

int RunImport(const Globals& globals, const ImportOptions& options) {
  auto name = ParseName(options.name);
  if (!name.ok()) return Complain(name.status());
  if (!name->step.has_value()) {
    return Complain(absl::InvalidArgumentError("import needs the step to make, as DIRECTORY/STEP"),
                    absl::StrCat("keepstep import ", options.source, " ", options.name, "/0"));
  }
  auto files = OpenSafetensors(options.source);
  if (!files.ok()) return Complain(files.status());
  int64_t total_bytes = 0;
  for (const SafetensorsFile& file : *files) {
    for (const storage::HeaderEntry& entry : file.header.entries)
      total_bytes += entry.end_bytes - entry.begin_bytes;
  }
  auto daemon = Connection::For(globals, *name, /*create=*/true);
  if (!daemon.ok()) return Complain(daemon.status());

  v1::BeginResponse begun;
  const auto begin_context = (*daemon)->Context();
  const v1::BeginRequest begin = MakeBegin(*name, *files, options.source);
  if (auto status = (*daemon)->checkpoints().Begin(begin_context.get(), begin, &begun); !status.ok()) {
    return Complain(status, absl::StrCat("keepstep ls ", name->job));
  }
  const auto write_context = (*daemon)->Context();
  v1::WriteResponse written;
  auto writer = (*daemon)->checkpoints().Write(write_context.get(), &written);
  const absl::Status local = SendAll(begun.attempt(), *files, total_bytes, writer.get());
  writer->WritesDone();
  const grpc::Status remote = writer->Finish();
  if (!local.ok() || !remote.ok()) {
    AbortAttempt(**daemon, begun.attempt());
    return local.ok() ? Complain(remote) : Complain(local);
  }
  v1::CommitRequest commit;
  commit.set_attempt(begun.attempt());
  v1::CheckpointInfo info;
  const auto commit_context = (*daemon)->Context();
  if (auto status = (*daemon)->checkpoints().Commit(commit_context.get(), commit, &info); !status.ok()) {
    return Complain(status, "keepstep status");
  }
  if (globals.json) {
    PrintJson(info);
  } else {
    printf("%s/%ld: %d tensors, %s committed\n", info.job().c_str(),
           static_cast<long>(info.decision().step()), begin.shards_size(), HumanBytes(total_bytes).c_str());
  }
  return 0;
}

}  // namespace

void AddImport(Program& program) {
  auto options = std::make_shared<ImportOptions>();
  auto* command = program.Add(kAct, "import", "Commit published safetensors files as one step",
                              [&program, options] { return RunImport(program.globals(), *options); });
  command
      ->add_option("SOURCE", options->source,
                   "A .safetensors file, an index.json, or a directory with either")
      ->required();
  command->add_option("NAME", options->name, "DIRECTORY/STEP, or JOB/STEP of a job that the daemon knows")
      ->required();
}

}  // namespace keepstep::client
