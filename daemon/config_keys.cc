// The table of keys.

#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "daemon/config.h"
#include "daemon/config_values.h"
#include "daemon/http_listener.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr int64_t kHour = 3'600'000;
constexpr size_t kMaxTextBytes = 4096;
constexpr size_t kMaxListed = 1024;

ConfigKey Key(absl::string_view name, absl::string_view takes, absl::string_view help) {
  ConfigKey key{.name = std::string(name), .takes = std::string(takes), .help = std::string(help)};
  key.flag = absl::StrCat("--", absl::StrReplaceAll(name, {{".", "-"}, {"_", "-"}}));
  key.setting = absl::StrCat("KEEPSTEP_", absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{".", "_"}})));
  return key;
}

ConfigKey Reloads(ConfigKey key) {
  key.reloads = true;
  return key;
}

struct NumberForm {
  const char* takes;
  absl::StatusOr<int64_t> (*parse)(absl::string_view);
  std::string (*show)(int64_t);
};
constexpr NumberForm kSize = {"size", ParseBytes, ShowBytes};
constexpr NumberForm kDuration = {"duration", ParseMillis, ShowMillis};
constexpr NumberForm kCount = {"count", ParseCount, [](int64_t value) { return absl::StrCat(value); }};

// `at` gives the field of a Config, const or not. `zero` is another word for 0, or empty.
template <typename At>
ConfigKey Number(NumberForm form, absl::string_view name, At at, int64_t least, int64_t most,
                 absl::string_view help, std::string zero = "") {
  ConfigKey key = Key(name, zero.empty() ? form.takes : absl::StrCat(form.takes, "|", zero), help);
  key.set = [=](const std::vector<std::string>& values, Config& config) -> absl::Status {
    absl::StatusOr<int64_t> value = !zero.empty() && values[0] == zero ? 0 : form.parse(values[0]);
    if (!value.ok()) return value.status();
    if (*value < least || *value > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", values[0], "' is outside ", form.show(least),
                       most == kMost ? absl::StrCat(" and up") : absl::StrCat(" to ", form.show(most))));
    }
    at(config) = static_cast<std::decay_t<decltype(at(config))>>(*value);
    return absl::OkStatus();
  };
  key.get = [=](const Config& config) -> std::vector<std::string> {
    const int64_t value = static_cast<int64_t>(at(config));
    return {!zero.empty() && value == 0 ? zero : form.show(value)};
  };
  return key;
}

template <typename At>
using FieldOf = std::decay_t<decltype(std::declval<At>()(std::declval<Config&>()))>;

template <typename At>
ConfigKey Choice(absl::string_view name, At at, std::vector<std::pair<std::string, FieldOf<At>>> choices,
                 absl::string_view help) {
  const std::string takes = absl::StrJoin(
      choices, "|", [](std::string* out, const auto& choice) { absl::StrAppend(out, choice.first); });
  ConfigKey key = Key(name, takes, help);
  key.set = [=](const std::vector<std::string>& values, Config& config) -> absl::Status {
    for (const auto& [word, value] : choices) {
      if (word != values[0]) continue;
      at(config) = value;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat("'", values[0].substr(0, 40), "' is none of ", takes));
  };
  key.get = [=](const Config& config) -> std::vector<std::string> {
    for (const auto& [word, value] : choices) {
      if (value == at(config)) return {word};
    }
    return {choices.front().first};
  };
  return key;
}

absl::Status CheckPath(absl::string_view path) {
  if (path.empty() || path.front() != '/') {
    return absl::InvalidArgumentError(absl::StrCat("'", path.substr(0, 80), "' is not an absolute path"));
  }
  for (const char c : path) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)))
      return absl::InvalidArgumentError("a path holds a control character");
  }
  if (path.size() > kMaxTextBytes) return absl::InvalidArgumentError("a path is too long");
  return absl::OkStatus();
}

// A text that `check` accepts. `nothing` is the word for an empty one, or empty where there must be one.
template <typename At>
ConfigKey Text(absl::string_view name, absl::string_view takes, At at,
               absl::Status (*check)(absl::string_view), absl::string_view help, std::string nothing) {
  ConfigKey key = Key(name, nothing.empty() ? std::string(takes) : absl::StrCat(takes, "|", nothing), help);
  key.set = [=](const std::vector<std::string>& values, Config& config) {
    const bool empty = !nothing.empty() && values[0] == nothing;
    absl::Status status = empty ? absl::OkStatus() : check(values[0]);
    if (status.ok()) at(config) = empty ? std::string() : values[0];
    return status;
  };
  key.get = [=](const Config& config) -> std::vector<std::string> {
    return {at(config).empty() ? nothing : at(config)};
  };
  return key;
}

template <typename At>
ConfigKey Path(absl::string_view name, At at, absl::string_view help, std::string nothing = "") {
  return Text(name, "path", at, CheckPath, help, std::move(nothing));
}

template <typename At>
ConfigKey Listen(absl::string_view name, At at, absl::string_view help) {
  return Text(name, "address", at, CheckListen, help, "off");
}

template <typename At>
ConfigKey Paths(absl::string_view name, absl::string_view flag, At at, absl::string_view help) {
  ConfigKey key = Key(name, "list of paths", help);
  key.flag = std::string(flag);
  key.is_list = true;
  key.set = [=](const std::vector<std::string>& values, Config& config) {
    if (values.size() > kMaxListed)
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxListed, " entries"));
    for (const std::string& path : values) {
      if (absl::Status status = CheckPath(path); !status.ok()) return status;
    }
    at(config) = values;
    return absl::OkStatus();
  };
  key.get = [=](const Config& config) { return at(config); };
  return key;
}

// The field `config.<field>`, in a form that serves const and not.
#define AT(field) \
  [](auto& config) -> auto& { return config.field; }

std::vector<ConfigKey> MakeKeys() {
  using Engine = storage::IoEngineOptions::Kind;
  return {
      Path("socket_dir", AT(daemon.socket_directory), "Where the sockets are"),
      Path("state_dir", AT(daemon.state_directory), "Catalog, journal, spool: on a local disk"),
      Paths("roots", "--root", AT(daemon.roots),
            "Directories of jobs that callers without a session may reach"),
      Number(kSize, "pool.bytes", AT(daemon.pool_bytes), 0, kMost,
             "Most staging memory; auto: a quarter of the machine's", "auto"),
      Reloads(Number(kDuration, "pool.idle", AT(daemon.pool_idle_ms), 1'000, 24 * kHour,
                     "Unused for so long, staging memory beyond what ranks have registered is given back")),
      Reloads(Number(kSize, "window.bytes", AT(daemon.window_bytes), int64_t{4} << 20, int64_t{4} << 30,
                     "Shared memory of each client whose memory cannot be read directly")),
      Choice("io.engine", AT(daemon.io.kind),
             {{"auto", Engine::kAuto}, {"uring", Engine::kUring}, {"threads", Engine::kThreads}},
             "How files are read and written; auto: io_uring where it works"),
      Number(kCount, "io.uring_threads", AT(daemon.io.uring_threads), 1, 16, "Rings, one thread each"),
      Number(kCount, "io.uring_depth", AT(daemon.io.uring_depth), 1, 1024,
             "Operations in flight in each ring"),
      Number(kCount, "io.pool_threads", AT(daemon.io.pool_threads), 1, 256,
             "Threads that read and write without io_uring"),
      Number(kCount, "threads.io", AT(daemon.threads.io), 1, 256, "Threads that wait for storage"),
      Number(kCount, "threads.logic", AT(daemon.threads.logic), 1, 64, "Threads of the jobs' decisions"),
      Number(kCount, "threads.calls", AT(daemon.threads.calls), 1, 1024,
             "Threads of calls that read checkpoints"),
      Number(kCount, "threads.copy", AT(daemon.threads.copy), 0, 1024,
             "Threads that copy and digest; auto: one per processor", "auto"),
      Choice("gpu", AT(daemon.gpu), {{"auto", GpuUse::kAuto}, {"on", GpuUse::kOn}, {"off", GpuUse::kOff}},
             "Whether trainers' GPU memory is mapped; auto: where the machine has a driver"),
      Number(kSize, "gpu_pool.bytes", AT(daemon.gpu_pool_bytes), 0, kMost,
             "Memory of each GPU that the daemon may own and lend to trainers, for warm restarts", "none"),
      Number(kDuration, "gpu_pool.hold", AT(daemon.gpu_pool_hold_ms), 100, 24 * kHour,
             "How long what dead trainers left in it is kept for those after them, at most"),
      Reloads(Choice("rescue.enabled", AT(daemon.rescue.enabled), {{"on", true}, {"off", false}},
                     "Whether the memory of trainers that asked for crash flush is kept when they die")),
      Reloads(Number(kDuration, "rescue.hold", AT(daemon.rescue.hold_ms), 100, kHour,
                     "How long memory is kept after its trainer's death, at most")),
      Reloads(Number(kSize, "rescue.bytes", AT(daemon.rescue.bytes), 0, kMost,
                     "GPU memory that is kept for dead trainers, at most")),
      Reloads(Number(kSize, "job.quota_bytes", AT(daemon.job_quota_bytes), 0, kMost,
                     "What each job may hold on storage: a save beyond it is refused", "none")),
      Reloads(
          Number(kCount, "limits.sessions", AT(daemon.max_sessions), 1, 65'536, "Clients connected at once")),
      Reloads(Number(kSize, "limits.registrations", AT(daemon.registrations_bytes), int64_t{1} << 20, kMost,
                     "Memory for what all clients together have registered")),
      Reloads(Number(kDuration, "limits.attempt_idle", AT(daemon.attempt_idle_ms), 1'000, 24 * kHour,
                     "A checkpoint that is written by calls alone is given up after so long without one")),
      Reloads(
          Number(kCount, "limits.world_size", AT(daemon.limits.max_world_size), 1, 16'384, "Ranks of a job")),
      Reloads(Number(kCount, "limits.saves_in_flight", AT(daemon.limits.max_saves_in_flight), 1, 8,
                     "Saves of a job being copied, or copied and undecided")),
      Reloads(Number(kCount, "limits.saves_queued", AT(daemon.limits.max_saves_queued), 1, 64,
                     "Further saves that may wait under on_busy=wait")),
      Reloads(Number(kDuration, "limits.resume", AT(daemon.limits.resume_ms), 1'000, kHour,
                     "What a client that lost its connection has to resume")),
      Reloads(Number(kDuration, "limits.roster", AT(daemon.limits.roster_ms), 1'000, 24 * kHour,
                     "What load and save wait for ranks that have not joined")),
      Reloads(Number(kDuration, "limits.save_progress", AT(daemon.limits.save_progress_ms), 10'000,
                     24 * kHour, "A save without any progress fails after this")),
      Reloads(Number(kDuration, "limits.claim_unsealed", AT(daemon.limits.claim_unsealed_ms), 1'000, kHour,
                     "What a new run grants the old run's saves that some rank has yet to seal")),
      Reloads(Number(kDuration, "limits.claim_sealed", AT(daemon.limits.claim_sealed_ms), 1'000, 24 * kHour,
                     "And those that only have to become durable")),
      Reloads(Number(kDuration, "limits.abort_report", AT(daemon.limits.abort_report_ms), 1'000, kHour,
                     "A failed save is reported after this even if its ABORT cannot be published")),
      Reloads(Number(kDuration, "limits.no_room", AT(daemon.limits.no_room_ms), 1'000, kHour,
                     "And after this if what the ABORT lacks is room on a full disk")),
      Reloads(Number(kDuration, "limits.recover", AT(daemon.limits.recover_ms), 1'000, kHour,
                     "What clients wait at start for an earlier daemon's saves to be settled")),
      Reloads(Number(kDuration, "limits.load", AT(daemon.limits.load_ms), 1'000, 24 * kHour,
                     "What a load that starts an epoch waits for the other ranks")),
      Reloads(Number(kDuration, "limits.drain", AT(daemon.limits.drain_ms), 1'000, 24 * kHour,
                     "The most that a drain on request takes")),
      Reloads(Number(kDuration, "limits.retry_first", AT(daemon.limits.retry_first_ms), 10, kHour,
                     "A storage operation is tried again after this, doubled each time")),
      Reloads(
          Number(kDuration, "limits.retry_most", AT(daemon.limits.retry_most_ms), 10, kHour, "… up to this")),
      Reloads(Number(kDuration, "limits.retry_no_room", AT(daemon.limits.retry_no_room_ms), 10, kHour,
                     "… or this, if what it lacks is room on a full disk")),
      Listen("http.listen", AT(daemon.http_listen),
             "Where /metrics, /healthz, /readyz and the page are served: 127.0.0.1:PORT, [::1]:PORT or "
             "unix:/PATH"),
      Reloads(Path("http.token_file", AT(daemon.http_token_file),
                   "A file whose first line lets its bearer see every user's jobs over HTTP", "none")),
      Reloads(Number(kDuration, "drain.limit", AT(drain_ms), 0, 24 * kHour,
                     "What saves in flight get after SIGTERM")),
      Reloads(Number(kDuration, "exit.idle", AT(exit_idle_ms), 0, 30 * 24 * kHour,
                     "With no client and nothing under way for so long, the daemon ends", "never")),
      Path("log.file", AT(daemon.log_file),
           "The log's file instead of standard error; FILE.1 is the one before", "stderr"),
      Number(kSize, "log.file_bytes", AT(daemon.log_file_bytes), int64_t{64} << 10, kMost,
             "At this size a new file begins"),
      Reloads(Choice("log.format", AT(daemon.log_format),
                     {{"text", Log::Format::kText}, {"json", Log::Format::kJson}}, "Form of a log line")),
      Reloads(Choice(
          "log.level", AT(daemon.log_level),
          {{"info", Log::Level::kInfo}, {"warning", Log::Level::kWarning}, {"error", Log::Level::kError}},
          "The least that is logged")),
  };
}

#undef AT

}  // namespace

const std::vector<ConfigKey>& ConfigKeys() {
  static const auto* keys = new std::vector<ConfigKey>(MakeKeys());
  return *keys;
}

}  // namespace keepstep::daemon
