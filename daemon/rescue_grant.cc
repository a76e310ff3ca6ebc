#include "daemon/rescue_grant.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/device_table.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

std::string WhyNot(const ClientSession& session, const Registration& registration, const RescueLimits& limits,
                   DeviceHub* hub) {
  if (!limits.enabled()) return "this daemon keeps no memory of dead trainers (rescue.enabled: off)";
  if (registration.devices == nullptr) return "";
  if (const int64_t bytes = session.gpu_bytes(); bytes > limits.limit_bytes()) {
    return absl::StrCat(HumanBytes(bytes), " of GPU memory are more than this daemon keeps (rescue.bytes: ",
                        HumanBytes(limits.limit_bytes()), ")");
  }
  std::set<std::pair<GpuUuid, HandleKind>> paths;
  for (const DeviceTable::Entry& entry : registration.devices->entries())
    paths.emplace(entry.mapping->gpu(), entry.mapping->kind());
  for (const auto& [gpu, kind] : paths) {
    if (absl::Status status = hub->OutlivesExporter(gpu, kind); !status.ok()) return std::string(status.message());
  }
  return "";
}

}  // namespace

ClientSession::RescueGrant GrantRescue(ClientSession& session, const Registration& registration,
                                       const RescueLimits& limits, DeviceHub* hub) {
  ClientSession::RescueGrant grant{.why_not = WhyNot(session, registration, limits, hub)};
  grant.granted = grant.why_not.empty();
  session.SetRescue(grant);
  return grant;
}

}  // namespace keepstep::daemon
