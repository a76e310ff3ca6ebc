// What the command prints: sizes, times and tables for people.

#ifndef KEEPSTEP_CLIENT_COMMAND_FORMAT_H_
#define KEEPSTEP_CLIENT_COMMAND_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace keepstep::client {

std::string HumanBytes(int64_t bytes);                            // "49.7 GiB"
std::string HumanSeconds(double seconds);                         // "4m10s"
std::string HumanAge(int64_t then_unix_ms, int64_t now_unix_ms);  // "2m ago"; "never" for 0
// "512 MiB", "5GB", "1000": bytes; -1 when it is not a size.
int64_t ParseBytes(absl::string_view text);

// Columns as wide as their widest cell, two spaces between, the last one unpadded. `right` names
// right-aligned columns.
class Table {
 public:
  explicit Table(std::vector<std::string> header, std::vector<size_t> right = {});
  void Add(std::vector<std::string> row);
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> right_;
};

// One line on stderr, rewritten at most ten times a second; nothing unless stderr is a terminal.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();  // clears the line
  void Update(int64_t bytes_done, int64_t bytes_total);

 private:
  const std::string what_;
  const bool shown_;
  const double start_seconds_;
  double last_seconds_ = 0;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_FORMAT_H_
