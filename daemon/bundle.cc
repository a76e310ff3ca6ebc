#include "daemon/bundle.h"

#include <google/protobuf/util/json_util.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/doctor.h"
#include "daemon/log_view.h"
#include "daemon/version.h"

namespace keepstep::daemon {
namespace {

std::string Section(const std::string& name, std::string text) {
  constexpr char kCut[] = "\n… cut\n";
  if (text.size() > kBundleSectionBytes) {
    text.resize(kBundleSectionBytes - sizeof(kCut));
    text += kCut;
  }
  if (text.empty() || text.back() != '\n') text += '\n';
  return absl::StrCat("==== ", name, " ====\n", text, "\n");
}

std::string ReadSome(const char* path) {
  std::ifstream file(path);
  std::string text(kBundleSectionBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

// What is mounted where and how it is written, without options: some file systems put credentials there.
std::string Mounts() {
  std::string text;
  for (absl::string_view line : absl::StrSplit(ReadSome("/proc/self/mounts"), '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 4) continue;
    absl::StrAppend(&text, fields[1], " ", fields[2], " ", fields[3].substr(0, 2), "\n");
  }
  return text;
}

std::string About(const ServerState& state) {
  utsname name{};
  uname(&name);
  return absl::StrCat("keepstepd ", kVersion, ", pid ", getpid(), ", uid ", geteuid(), ", ", state.address,
                      "\n", name.sysname, " ", name.release, " ", name.machine, "\n",
                      absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::Now(), absl::UTCTimeZone()), "\n");
}

std::string Json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  return google::protobuf::util::MessageToJsonString(message, &text, options).ok() ? text : "";
}

std::string Problems(const v1::StatusResponse& status) {
  std::string text;
  for (const v1::JobStatus& job : status.jobs()) {
    for (const v1::Problem& problem : job.problems()) {
      absl::StrAppend(&text, job.job(), problem.step() >= 0 ? absl::StrCat("/", problem.step()) : "", ": ",
                      problem.sentence(), "\n");
      for (const std::string& line : problem.details()) absl::StrAppend(&text, "  ", line, "\n");
    }
  }
  return text.empty() ? "nothing is wrong" : text;
}

std::string Checks(const v1::DoctorResponse& response) {
  std::string text;
  for (const v1::Check& check : response.checks()) {
    absl::StrAppend(&text, v1::Check::Result_Name(check.result()), "  ", check.name(), ": ", check.found(),
                    "\n");
  }
  return text;
}

std::string Lines(const ServerState& state, const std::shared_ptr<ClientSession>& session) {
  std::string text;
  for (const v1::LogLine& line :
       LogView(state, session, "").Filter(state.log_ring->After(0, kLogLinesKept))) {
    absl::StrAppend(
        &text,
        absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMillis(line.unix_ms()), absl::UTCTimeZone()),
        " ", line.level(), " ", line.text(), "\n");
  }
  return text;
}

}  // namespace

std::string WithoutSecrets(const std::string& config) {
  constexpr const char* kSuspicious[] = {"token", "secret", "password", "key", "credential"};
  std::vector<std::string> lines = absl::StrSplit(config, '\n');
  for (std::string& line : lines) {
    const std::string name = absl::AsciiStrToLower(line.substr(0, line.find(':')));
    for (const char* word : kSuspicious) {
      if (!absl::StrContains(name, word) || line.find(':') == std::string::npos) continue;
      line = line.substr(0, line.find(':') + 1) + " (left out)";
    }
  }
  return absl::StrJoin(lines, "\n");
}

absl::Status MakeBundle(const ServerState& state, const std::shared_ptr<ClientSession>& session,
                        const v1::StatusResponse& status,
                        const std::function<absl::Status(std::string)>& take) {
  std::vector<std::pair<const char*, std::function<std::string()>>> sections = {
      {"daemon", [&] { return About(state); }},
      {"status", [&] { return Json(status); }},
      {"why", [&] { return Problems(status); }},
      {"doctor", [&] { return Checks(Examine(state, session.get())); }},
      {"log", [&] { return Lines(state, session); }},
  };
  if (IsOperator(session.get())) {
    sections.insert(sections.end(), {{"configuration", [&] { return WithoutSecrets(state.config.text()); }},
                                     {"limits", [] { return ReadSome("/proc/self/limits"); }},
                                     {"memory", [] { return ReadSome("/proc/self/status"); }},
                                     {"mounts", [] { return Mounts(); }}});
  }
  for (const auto& [name, make] : sections) {
    if (absl::Status taken = take(Section(name, make())); !taken.ok()) return taken;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
