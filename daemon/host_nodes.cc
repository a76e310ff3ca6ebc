#include "daemon/host_nodes.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace keepstep::daemon {
namespace {

constexpr int kMostNumber = 65535;
constexpr int kMostProcessors = 8192;  // the kernel is built for no more

// More than cpu_set_t has room for: the kernel refuses a set that is smaller than its own.
struct ProcessorSet {
  static constexpr size_t kBytes = kMostProcessors / 8;
  alignas(cpu_set_t) unsigned char bytes[kBytes] = {};

  cpu_set_t* get() { return reinterpret_cast<cpu_set_t*>(bytes); }
};

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string NodeDirectory(const std::string& sysfs) { return sysfs + "/devices/system/node"; }

std::vector<int> ReadNumbers(const std::string& path) {
  return ParseNumbers(ReadText(path)).value_or(std::vector<int>());
}

}  // namespace

std::string NodeName(int node) { return node == kAnyNode ? "any node" : absl::StrCat("node ", node); }

std::optional<std::vector<int>> ParseNumbers(absl::string_view text) {
  std::vector<int> numbers;
  text = absl::StripAsciiWhitespace(text);
  if (text.empty()) return numbers;
  for (const absl::string_view range : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last) ||
        first < 0 || last < first || last > kMostNumber || (!numbers.empty() && first <= numbers.back())) {
      return std::nullopt;
    }
    for (int number = first; number <= last; ++number) numbers.push_back(number);
  }
  return numbers;
}

int NodeToChoose(const std::string& sysfs, int node) {
  const std::vector<int> nodes = ReadNumbers(NodeDirectory(sysfs) + "/has_memory");
  return nodes.size() > 1 && std::binary_search(nodes.begin(), nodes.end(), node) ? node : kAnyNode;
}

int NodeOfPciDevice(const std::string& sysfs, const std::string& address) {
  int node = kAnyNode;
  const std::string text = ReadText(absl::StrCat(sysfs, "/bus/pci/devices/", address, "/numa_node"));
  return absl::SimpleAtoi(text, &node) && node >= 0 ? node : kAnyNode;
}

absl::Status StayOnNode(const std::string& sysfs, int node) {
  ProcessorSet allowed, chosen;
  if (sched_getaffinity(0, ProcessorSet::kBytes, allowed.get()) != 0)
    return absl::UnavailableError(absl::StrCat("sched_getaffinity: ", strerror(errno)));
  for (const int cpu : ReadNumbers(absl::StrCat(NodeDirectory(sysfs), "/node", node, "/cpulist"))) {
    if (cpu < kMostProcessors && CPU_ISSET_S(cpu, ProcessorSet::kBytes, allowed.get()))
      CPU_SET_S(cpu, ProcessorSet::kBytes, chosen.get());
  }
  if (CPU_COUNT_S(ProcessorSet::kBytes, chosen.get()) == 0)
    return absl::NotFoundError(absl::StrCat("no processor of node ", node, " may be used"));
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    pid_t id = 0;
    if (!absl::SimpleAtoi(thread.path().filename().string(), &id)) continue;
    if (sched_setaffinity(id, ProcessorSet::kBytes, chosen.get()) != 0 && errno != ESRCH)
      return absl::UnavailableError(absl::StrCat("sched_setaffinity: ", strerror(errno)));
  }
  if (error) return absl::UnavailableError(absl::StrCat("/proc/self/task: ", error.message()));
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
