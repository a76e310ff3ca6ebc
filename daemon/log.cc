#include "daemon/log.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/log_file.h"
#include "daemon/log_ring.h"

namespace keepstep::daemon {
namespace {

std::string Quoted(absl::string_view value) {
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string OneLine(absl::string_view value) {
  std::string out(value);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

}  // namespace

Log::Log(Format format, Level level, int fd) : format_(format), level_(level), fd_(fd) {}
Log::~Log() = default;

void Log::Bound(std::unique_ptr<LogFile> file) { file_ = std::move(file); }

void Log::Write(Level level, absl::string_view message, Fields fields) {
  if (level < level_) return;
  const absl::Time now = absl::Now();
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone());
  std::string text = OneLine(message);
  for (const auto& [name, value] : fields) absl::StrAppend(&text, " ", name, "=", Quoted(value));
  std::string line;
  if (format_ == Format::kJson) {
    line = absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level),
                        "\",\"message\":", Quoted(message));
    for (const auto& [name, value] : fields) absl::StrAppend(&line, ",\"", name, "\":", Quoted(value));
    line += "}\n";
  } else {
    line = absl::StrCat(time, " ", LevelName(level), " ", text, "\n");
  }
  std::lock_guard lock(mutex_);
  if (ring_ != nullptr) {
    std::string job;
    for (const auto& [name, value] : fields) {
      if (name == "job") job = value;
    }
    ring_->Append(level, absl::ToUnixMillis(now), std::move(job), std::move(text));
  }
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t wrote = write(fd_, rest.data(), rest.size());
    if (wrote <= 0) return;  // nobody reads the log: not a reason to stop saving
    rest.remove_prefix(wrote);
  }
  if (file_ != nullptr) file_->Look();
}

const char* LevelName(Log::Level level) {
  return level == Log::Level::kInfo ? "info" : level == Log::Level::kWarning ? "warning" : "error";
}

std::string HumanBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace keepstep::daemon
