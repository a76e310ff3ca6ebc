#include "tests/fake_cuda/options.h"

#include <cstdio>
#include <cstdlib>

#include "tests/fake_cuda/find_call.h"

namespace keepstep::fake_cuda {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool Number(const std::string& text, int64_t& into) {
  char* end = nullptr;
  into = std::strtoll(text.c_str(), &end, 10);
  return !text.empty() && *end == '\0' && into >= 0;
}

std::string Hex(const Uuid& uuid) {
  std::string text;
  for (unsigned char byte : uuid) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    text += digits;
  }
  return text;
}

bool ParseUuid(const std::string& text, Uuid& into) {
  if (text.size() != 32) return false;
  for (size_t i = 0; i < 16; ++i) {
    char* end = nullptr;
    const std::string digits = text.substr(2 * i, 2);
    into[i] = static_cast<unsigned char>(std::strtoul(digits.c_str(), &end, 16));
    if (end != digits.c_str() + 2) return false;
  }
  return true;
}

bool ReadNumbers(const char* name, std::vector<DeviceOptions>& devices, double DeviceOptions::*field,
                 double lowest = 0) {
  const std::vector<std::string> parts = Split(Variable(name), ',');
  for (size_t i = 0; i < devices.size() && !parts.empty(); ++i) {
    char* end = nullptr;
    const std::string& part = parts[std::min(i, parts.size() - 1)];
    devices[i].*field = std::strtod(part.c_str(), &end);
    if (*end != '\0' || devices[i].*field < lowest) return false;
  }
  return true;
}

bool ReadDevices(Options& options) {
  const std::string count_text = Variable("KEEPSTEP_FAKE_CUDA_DEVICES");
  const std::vector<std::string> uuids = Split(Variable("KEEPSTEP_FAKE_CUDA_UUIDS"), ',');
  int64_t count = uuids.empty() ? 1 : static_cast<int64_t>(uuids.size());
  if (!count_text.empty() && !Number(count_text, count)) return false;
  if (count > kMostDevices) return false;
  options.devices.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    Uuid& uuid = options.devices[i].uuid;
    for (size_t byte = 0; byte < 16; ++byte) uuid[byte] = byte >= 8 ? 0 : byte % 2 == 0 ? 0xfa : 0xce;
    uuid[15] = static_cast<unsigned char>(i);
    if (i < static_cast<int64_t>(uuids.size()) && !ParseUuid(uuids[i], uuid)) return false;
  }
  return true;
}

// The device that `name` of CUDA_VISIBLE_DEVICES means, or -1.
int64_t Find(const std::vector<DeviceOptions>& devices, const std::string& name) {
  int64_t ordinal = -1;
  if (Number(name, ordinal)) return ordinal < static_cast<int64_t>(devices.size()) ? ordinal : -1;
  if (name.rfind("GPU-", 0) != 0) return -1;
  std::string digits;
  for (char letter : name.substr(4)) {
    if (letter != '-') digits += letter;
  }
  for (size_t i = 0; i < devices.size(); ++i) {
    if (Hex(devices[i].uuid).rfind(digits, 0) == 0) return static_cast<int64_t>(i);
  }
  return -1;
}

void KeepVisible(std::vector<DeviceOptions>& devices) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!visible) return;
  std::vector<DeviceOptions> kept;
  for (const std::string& name : Split(visible, ',')) {
    const int64_t found = Find(devices, name);
    if (found < 0) break;
    kept.push_back(devices[found]);
  }
  devices = kept;
}

bool ReadFeatures(Options& options) {
  for (const std::string& feature : Split(Variable("KEEPSTEP_FAKE_CUDA_OFF"), ',')) {
    if (feature == "ipc") {
      options.ipc = false;
    } else if (feature == "vmm") {
      options.vmm = false;
    } else if (feature == "posix_fd") {
      options.posix_fd = false;
    } else if (feature == "stream_memory_operations") {
      options.stream_memory_operations = false;
    } else if (feature == "pools") {
      options.pools = false;
    } else if (feature == "host_numa_id") {
      options.knows_host_numa_id = false;
    } else if (feature == "outliving") {
      options.outliving = false;
    } else {
      return false;
    }
  }
  options.dirty = Variable("KEEPSTEP_FAKE_CUDA_DIRTY") == "1";
  options.exclusive = Variable("KEEPSTEP_FAKE_CUDA_EXCLUSIVE") == "1";
  return true;
}

bool ReadFaults(Options& options) {
  for (const std::string& text : Split(Variable("KEEPSTEP_FAKE_CUDA_FAULTS"), ';')) {
    const std::vector<std::string> parts = Split(text, ':');
    if (parts.size() < 3 || parts.size() > 4 || (parts.size() == 4 && parts[3] != "once")) return false;
    Fault fault{.call = parts[0], .once = parts.size() == 4};
    if (parts[1] != "*" && (!Number(parts[1], fault.nth) || fault.nth == 0)) return false;
    int64_t code = 0;
    fault.hangs = parts[2] == "hang";
    if (!fault.hangs && !Number(parts[2], code)) return false;
    if (!FindCall(fault.call)) return false;  // a fault that cannot happen would let its test pass
    fault.code = static_cast<int>(code);
    options.faults.push_back(fault);
  }
  return options.faults.size() <= 64;
}

}  // namespace

std::optional<Options> ReadOptions() {
  Options options;
  int64_t memory_bytes = options.memory_bytes;
  const std::string memory_text = Variable("KEEPSTEP_FAKE_CUDA_MEMORY_BYTES");
  const char* wrong = nullptr;
  if (!ReadDevices(options)) wrong = "DEVICES or UUIDS";
  if (!ReadNumbers("KEEPSTEP_FAKE_CUDA_H2D_GBPS", options.devices, &DeviceOptions::host_to_device_gbps) ||
      !ReadNumbers("KEEPSTEP_FAKE_CUDA_D2H_GBPS", options.devices, &DeviceOptions::device_to_host_gbps) ||
      !ReadNumbers("KEEPSTEP_FAKE_CUDA_D2D_GBPS", options.devices, &DeviceOptions::device_to_device_gbps)) {
    wrong = "H2D_GBPS, D2H_GBPS or D2D_GBPS";
  }
  if (!ReadNumbers("KEEPSTEP_FAKE_CUDA_COPY_US", options.devices, &DeviceOptions::copy_us)) wrong = "COPY_US";
  if (!ReadNumbers("KEEPSTEP_FAKE_CUDA_HOST_NUMA_IDS", options.devices, &DeviceOptions::host_numa_id, -1))
    wrong = "HOST_NUMA_IDS";
  if (!memory_text.empty() && !Number(memory_text, memory_bytes)) wrong = "MEMORY_BYTES";
  if (!ReadFeatures(options)) wrong = "OFF";
  if (!ReadFaults(options)) wrong = "FAULTS";
  if (wrong) {
    std::fprintf(stderr,
                 "fake CUDA driver: KEEPSTEP_FAKE_CUDA_%s makes no sense; see tests/fake_cuda/options.h\n",
                 wrong);
    return std::nullopt;
  }
  options.memory_bytes = memory_bytes;
  options.counters_file = Variable("KEEPSTEP_FAKE_CUDA_COUNTERS");
  KeepVisible(options.devices);
  return options;
}

}  // namespace keepstep::fake_cuda
