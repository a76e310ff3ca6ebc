// Session pages in plain memory, for tests of what stands on them.

#ifndef KEEPSTEP_CLIENT_TEST_PAGES_H_
#define KEEPSTEP_CLIENT_TEST_PAGES_H_

#include <poll.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "client/futex.h"
#include "client/samples.h"
#include "client/session_pages.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

class TestPages final : public SessionPages {
 public:
  const proto::DaemonPage& daemon() const override { return daemon_page; }
  proto::ClientPage& client() const override { return client_page; }
  void Notify() override { ++notices; }
  bool AskSave(const std::string&) override { return false; }
  bool DaemonGone() const override { return gone; }
  void AwaitGone(int wake_fd, int64_t timeout_ms) const override {
    pollfd watched{.fd = wake_fd, .events = POLLIN};
    poll(&watched, 1, static_cast<int>(timeout_ms));
  }

  proto::Verdict VerdictOf(uint64_t number) const {
    const uint64_t slot = client_page.verdicts[number % proto::kSaveSlots].load();
    return proto::SlotNumber(slot) == number ? static_cast<proto::Verdict>(proto::SlotValue(slot))
                                             : proto::Verdict::kNone;
  }
  void SetState(uint64_t number, v1::SaveState state) {
    daemon_page.states[number % proto::kSaveSlots] = proto::PackSlot(number, static_cast<uint8_t>(state));
  }
  void Release(uint32_t group, uint64_t number) {
    daemon_page.released[group] = number;
    ++daemon_page.changes;
    FutexWakeAll(daemon_page.changes);
  }

  proto::DaemonPage daemon_page;
  mutable proto::ClientPage client_page;
  std::atomic<int> notices{0};
  std::atomic<bool> gone{false};
};

// One tensor a group, named tensor-<group>.
inline std::shared_ptr<const SamplePlan> PlanOf(
    const std::map<uint32_t, std::array<std::byte, 256>&>& tensors) {
  auto plan = std::make_shared<SamplePlan>();
  for (const auto& [group, memory] : tensors) {
    (*plan)[group].push_back(
        {.fqn = "tensor-" + std::to_string(group), .data = memory.data(), .size_bytes = 256});
  }
  return plan;
}

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_TEST_PAGES_H_
