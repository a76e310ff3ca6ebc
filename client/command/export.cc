// export: a checkpoint becomes safetensors files as others publish them: whole tensors under their own names,
// sharded by size, with an index when there are several files. Files are written under temporary names and
// renamed when whole.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/command/commands.h"
#include "client/command/export_plan.h"
#include "client/command/format.h"
#include "client/command/tensor_list.h"
#include "client/grpc_status.h"
#include "client/unique_fd.h"

namespace keepstep::client {
namespace {

namespace fs = std::filesystem;

struct ExportOptions {
  std::string name, destination;
  std::string component = "model";  // model, optimizer, all
  std::string max_shard = "5GB";
  bool force = false;
};

absl::Status Errno(absl::string_view what, const std::string& path) {
  const std::string message = absl::StrCat("cannot ", what, " ", path, ": ", strerror(errno));
  return errno == ENOSPC || errno == EDQUOT ? absl::ResourceExhaustedError(message)
                                            : absl::FailedPreconditionError(message);
}

absl::Status WriteFully(int fd, const std::string& path, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno("write", path);
    bytes.remove_prefix(n);
  }
  return absl::OkStatus();
}

class Exporter {
 public:
  Exporter(const Connection& daemon, v1::CheckpointName name, int64_t total_bytes)
      : daemon_(daemon), name_(std::move(name)), total_bytes_(total_bytes), progress_("export") {}

  absl::Status WriteFile(const ExportFile& file, const fs::path& path) {
    const std::string temporary = absl::StrCat(path.string(), ".partial");
    UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!fd.valid()) return Errno("make", temporary);
    absl::Status status = Fill(file, fd.get(), temporary);
    if (status.ok() && fsync(fd.get()) != 0) status = Errno("flush", temporary);
    if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = Errno("rename", temporary);
    if (!status.ok()) unlink(temporary.c_str());
    return status;
  }

 private:
  absl::Status Fill(const ExportFile& file, int fd, const std::string& path) {
    auto header = PlainHeader(file);
    if (!header.ok()) return header.status();
    if (auto status = WriteFully(fd, path, *header); !status.ok()) return status;
    for (const ExportTensor& tensor : file.tensors) {
      if (auto status = CopyTensor(tensor, fd, path); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status CopyTensor(const ExportTensor& tensor, int fd, const std::string& path) {
    v1::ReadRequest request;
    *request.mutable_name() = name_;
    request.set_fqn(tensor.stored_name);
    const auto context = daemon_.Context();
    auto stream = daemon_.checkpoints().Read(context.get(), request);
    v1::ReadChunk chunk;
    int64_t received_bytes = 0;
    while (stream->Read(&chunk)) {
      if (auto status = WriteFully(fd, path, chunk.data()); !status.ok()) {
        context->TryCancel();
        stream->Finish();
        return status;
      }
      received_bytes += chunk.data().size();
      progress_.Update(done_bytes_ + received_bytes, total_bytes_);
    }
    if (const auto status = stream->Finish(); !status.ok()) return FromGrpc(status);
    if (received_bytes != tensor.size_bytes) {
      return absl::DataLossError(
          absl::StrCat(tensor.name, ": ", received_bytes, " of ", tensor.size_bytes, " bytes"));
    }
    done_bytes_ += received_bytes;
    return absl::OkStatus();
  }

  const Connection& daemon_;
  const v1::CheckpointName name_;
  const int64_t total_bytes_;
  int64_t done_bytes_ = 0;
  Progress progress_;
};

absl::Status WriteIndex(const std::vector<ExportFile>& files, int64_t total_bytes, const fs::path& path) {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total_bytes;
  auto& map = index["weight_map"] = nlohmann::ordered_json::object();
  for (const ExportFile& file : files) {
    for (const ExportTensor& tensor : file.tensors) map[tensor.name] = file.name;
  }
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return Errno("make", path.string());
  const std::string text = index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (auto status = WriteFully(fd.get(), path.string(), text); !status.ok()) return status;
  return fsync(fd.get()) == 0 ? absl::OkStatus() : Errno("flush", path.string());
}

absl::Status RefuseOverwriting(const std::vector<ExportFile>& files, const fs::path& directory) {
  for (const ExportFile& file : files) {
    if (fs::exists(directory / file.name)) {
      return absl::AlreadyExistsError(
          absl::StrCat((directory / file.name).string(), " is there already; --force replaces it"));
    }
  }
  return absl::OkStatus();
}

int RunExport(const Globals& globals, const ExportOptions& options) {
  const int64_t max_shard_bytes = ParseBytes(options.max_shard);
  if (max_shard_bytes <= 0) {
    return Complain(absl::InvalidArgumentError(options.max_shard + " is not a size; write 5GB or 512MiB"));
  }
  auto name = ParseName(options.name);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::QueryTensorsResponse all;
  if (auto status = ListTensors(**daemon, *name, "", &all); !status.ok())
    return Complain(status, absl::StrCat("keepstep ls ", name->job));
  const int64_t step = all.step();
  std::vector<v1::StoredTensor> tensors;
  for (const v1::TensorInfo& info : all.tensors()) tensors.push_back(info.tensor());
  // One step from here on, even if "latest" moves meanwhile.
  Name exact = *name;
  exact.step = step;
  exact.latest = false;
  auto files = PlanExport(tensors, options.component, max_shard_bytes);
  if (!files.ok()) return Complain(files.status(), absl::StrCat("keepstep tensors ", options.name));
  const fs::path directory = options.destination;
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    return Complain(absl::FailedPreconditionError(absl::StrCat(directory.string(), ": ", error.message())));
  if (!options.force) {
    if (auto status = RefuseOverwriting(*files, directory); !status.ok()) return Complain(status);
  }
  int64_t total_bytes = 0, count = 0;
  for (const ExportFile& file : *files) {
    count += file.tensors.size();
    for (const ExportTensor& tensor : file.tensors) total_bytes += tensor.size_bytes;
  }
  Exporter exporter(**daemon, ToProto(exact), total_bytes);
  for (const ExportFile& file : *files) {
    if (auto status = exporter.WriteFile(file, directory / file.name); !status.ok()) return Complain(status);
  }
  if (files->size() > 1) {
    const auto status = WriteIndex(*files, total_bytes, directory / "model.safetensors.index.json");
    if (!status.ok()) return Complain(status);
  }
  if (globals.json) {
    nlohmann::ordered_json out = {
        {"step", step}, {"tensors", count}, {"bytes", total_bytes}, {"files", nlohmann::json::array()}};
    for (const ExportFile& file : *files) out["files"].push_back((directory / file.name).string());
    printf("%s\n", out.dump(2).c_str());
  } else {
    printf("%s/%ld: %ld tensors, %s in %zu file%s in %s\n", name->job.c_str(), static_cast<long>(step),
           static_cast<long>(count), HumanBytes(total_bytes).c_str(), files->size(),
           files->size() == 1 ? "" : "s", directory.c_str());
  }
  return 0;
}

}  // namespace

void AddExport(Program& program) {
  auto options = std::make_shared<ExportOptions>();
  auto* command = program.Add(kAct, "export", "Write safetensors files that other tools load",
                              [&program, options] { return RunExport(program.globals(), *options); });
  command->add_option("NAME", options->name, "JOB/STEP or JOB/latest")->required();
  command->add_option("DIRECTORY", options->destination, "Where the files go; made when missing")->required();
  command->add_option("--component", options->component, "model, optimizer or all")
      ->check(CLI::IsMember({"model", "optimizer", "all"}))
      ->capture_default_str();
  command->add_option("--max-shard-size", options->max_shard, "Largest file")->capture_default_str();
  command->add_flag("--force", options->force, "Replace files that are there");
}

}  // namespace keepstep::client
