#include "client/command/safetensors_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace keepstep::client {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<SafetensorsFile> OpenOne(const std::string& path) {
  SafetensorsFile file;
  file.path = path;
  file.fd = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!file.fd.valid() || fstat(file.fd.get(), &info) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  }
  std::string bytes(std::min<int64_t>(8, info.st_size), '\0');
  if (auto status = ReadFully(file.fd.get(), path, 0, absl::MakeSpan(bytes.data(), bytes.size()));
      !status.ok()) {
    return status;
  }
  auto size = storage::HeaderSize(bytes, info.st_size);
  if (!size.ok()) return absl::DataLossError(absl::StrCat(path, ": ", size.status().message()));
  bytes.resize(*size);
  if (auto status = ReadFully(file.fd.get(), path, 0, absl::MakeSpan(bytes.data(), bytes.size()));
      !status.ok()) {
    return status;
  }
  auto header = storage::ParseHeader(bytes, info.st_size);
  if (!header.ok()) return absl::DataLossError(absl::StrCat(path, ": ", header.status().message()));
  if (header->keepstep) {
    return absl::InvalidArgumentError(absl::StrCat(path,
                                                   " is a shard of a Keepstep checkpoint, not a published "
                                                   "file; load or export that checkpoint instead"));
  }
  file.header = *std::move(header);
  return file;
}

absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::DataLossError(absl::StrCat(path, " is not a safetensors index: it has no weight_map"));
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() || absl::StrContains(file.get<std::string>(), "/")) {
      return absl::DataLossError(absl::StrCat(path, " names no file beside it for ", tensor));
    }
    files[tensor] = file.get<std::string>();
  }
  return files;
}

absl::StatusOr<std::vector<SafetensorsFile>> OpenIndexed(const std::string& index) {
  auto files = ReadIndex(index);
  if (!files.ok()) return files.status();
  std::set<std::string> names;
  for (const auto& [tensor, file] : *files) names.insert(file);
  std::vector<SafetensorsFile> out;
  std::map<std::string, std::string> found;
  for (const std::string& name : names) {
    auto file = OpenOne((fs::path(index).parent_path() / name).string());
    if (!file.ok()) return file.status();
    for (const storage::HeaderEntry& entry : file->header.entries) {
      const auto [where, fresh] = found.emplace(entry.name, name);
      if (!fresh) {
        return absl::InvalidArgumentError(
            absl::StrCat(entry.name, " is in both ", where->second, " and ", name));
      }
    }
    out.push_back(*std::move(file));
  }
  for (const auto& [tensor, file] : *files) {
    const auto where = found.find(tensor);
    if (where == found.end() || where->second != file) {
      return absl::DataLossError(
          absl::StrCat(index, " says that ", tensor, " is in ", file, ", but it is not"));
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsFile>> OpenSafetensors(const std::string& source) {
  std::error_code error;
  std::string path = source;
  if (fs::is_directory(source, error)) {
    std::set<std::string> indexes, files;
    for (const auto& entry : fs::directory_iterator(source, error)) {
      const std::string name = entry.path().string();
      if (absl::EndsWith(name, ".safetensors.index.json")) indexes.insert(name);
      if (absl::EndsWith(name, ".safetensors")) files.insert(name);
    }
    if (indexes.size() == 1) {
      path = *indexes.begin();
    } else if (indexes.empty() && files.size() == 1) {
      path = *files.begin();
    } else if (fs::exists(fs::path(source) / ".metadata", error)) {
      return absl::NotFoundError(absl::StrCat(
          source, " is a PyTorch distributed checkpoint; import it with python -m keepstep.torch.dcp import ", source,
          " DIRECTORY"));
    } else {
      return absl::NotFoundError(absl::StrCat(source, " holds ", indexes.size(), " indexes and ",
                                              files.size(), " safetensors files; name the one to import"));
    }
  }
  if (absl::EndsWith(path, ".json")) return OpenIndexed(path);
  auto file = OpenOne(path);
  if (!file.ok()) return file.status();
  std::vector<SafetensorsFile> out;
  out.push_back(*std::move(file));
  return out;
}

absl::Status ReadFully(int fd, const std::string& path, int64_t offset_bytes, absl::Span<char> into) {
  while (!into.empty()) {
    const ssize_t n = pread(fd, into.data(), into.size(), offset_bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnavailableError(absl::StrCat("cannot read ", path, ": ", strerror(errno)));
    if (n == 0) return absl::DataLossError(absl::StrCat(path, " ended early"));
    into.remove_prefix(n);
    offset_bytes += n;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::client
