#include "daemon/client_session.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/device_port.h"
#include "daemon/error.h"
#include "daemon/record_port.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kGenerationsKept = 4;  // saves under way hold theirs themselves

// The tensor that begins nearest before `address`: an error's message wants a name.
std::string TensorAt(const Registration& registration, uint64_t address) {
  const reshard::TensorShard* nearest = nullptr;
  uint64_t begin = 0;
  for (const reshard::TensorShard& shard : registration.shards->shards) {
    for (const reshard::LocalBox& box : shard.boxes) {
      const uint64_t at = registration.addresses[shard.buffer] + static_cast<uint64_t>(box.offset_bytes);
      if (at > address || at < begin) continue;
      nearest = &shard;
      begin = at;
    }
  }
  return nearest == nullptr ? "a tensor" : nearest->meta.fqn;
}

SessionNonce NonceOf(const proto::Hello& hello) {
  SessionNonce nonce;
  std::copy(std::begin(hello.nonce), std::end(hello.nonce), nonce.begin());
  return nonce;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ClientSession>> ClientSession::Make(Parts parts) {
  std::shared_ptr<ClientSession> session(new ClientSession(std::move(parts)));
  const Parts& own = session->parts_;
  if (own.hello.want != proto::Transfer::kWindow) {
    auto pull = std::make_unique<PullPort>(own.peer.pid, own.pidfd.get(), own.hello.nonce_address,
                                           NonceOf(own.hello));
    const absl::Status works = pull->Check();
    if (works.ok()) {
      session->pull_port_ = std::move(pull);
      return session;
    }
    if (own.hello.want == proto::Transfer::kPull) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "PULL_REFUSED",
          absl::StrCat(
              "The daemon cannot read this process's memory (", works.message(),
              "). Use the window (KEEPSTEP_TRANSFER=window), or the same user and namespace for both."),
          "handoff");
    }
  }
  auto window = SharedMemory::Make("keepstep-window", own.window_bytes, SharedMemory::Peer::kMayWrite);
  if (!window.ok()) return window.status();
  session->window_.emplace(*std::move(window));
  session->window_port_ = std::make_unique<WindowPort>(session->window_->bytes(), own.socket.get());
  return session;
}

std::shared_ptr<MemoryPort> ClientSession::port(std::shared_ptr<const Registration> registration,
                                                std::vector<Fence> fences) {
  MemoryPort* port =
      window_port_ != nullptr ? static_cast<MemoryPort*>(window_port_.get()) : pull_port_.get();
  std::shared_ptr<MemoryPort> host(shared_from_this(), port);
  if (registration->devices == nullptr) return host;
  std::shared_ptr<const DeviceTable> table = registration->devices;
  return std::make_shared<DevicePort>(
      memory_.hub(), std::move(host), std::move(table), std::move(fences),
      [registration = std::move(registration)](uint64_t address) { return TensorAt(*registration, address); });
}

std::shared_ptr<MemoryPort> ClientSession::port_of_record(std::shared_ptr<const Registration> registration,
                                                          std::shared_ptr<const proto::FlightNote> note) {
  auto host = std::make_shared<RecordPort>(std::move(note));
  if (registration->devices == nullptr) return host;
  std::shared_ptr<const DeviceTable> table = registration->devices;
  return std::make_shared<DevicePort>(
      memory_.hub(), std::move(host), std::move(table), std::vector<Fence>(),
      [registration = std::move(registration)](uint64_t address) { return TensorAt(*registration, address); });
}

void ClientSession::SetRescue(RescueGrant grant) {
  std::lock_guard lock(mutex_);
  rescue_ = std::move(grant);
}

ClientSession::RescueGrant ClientSession::rescue() const {
  std::lock_guard lock(mutex_);
  return rescue_;
}

int64_t ClientSession::gpu_bytes() const {
  const std::shared_ptr<const Registration> newest = registration();
  if (newest == nullptr || newest->devices == nullptr) return 0;
  std::set<const Mapping*> counted;
  int64_t bytes = 0;
  for (const DeviceTable::Entry& entry : newest->devices->entries()) {
    if (counted.insert(entry.mapping.get()).second) bytes += entry.size_bytes;
  }
  return bytes;
}

void ClientSession::OnCopyDone(uint64_t id, int32_t error) {
  if (window_port_ != nullptr) window_port_->OnCopyDone(id, error);
}

void ClientSession::OnDisconnected() {
  if (window_port_ == nullptr) return;
  window_port_->OnSessionEnded(MakeError(absl::StatusCode::kAborted, "TRAINER_LOST",
                                         "The trainer's connection ended while its memory was being copied.",
                                         "copy"));
}

void ClientSession::End(absl::Status why) {
  std::function<void(const absl::Status&)> hook;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    hook = std::exchange(at_end_, nullptr);
  }
  if (hook) hook(why);
  memory_.End();
  parts_.socket->Shutdown();
  if (window_port_ != nullptr) window_port_->OnSessionEnded(std::move(why));
}

bool ClientSession::ended() const {
  std::lock_guard lock(mutex_);
  return ended_;
}

void ClientSession::AtEnd(std::function<void(const absl::Status&)> hook) {
  {
    std::lock_guard lock(mutex_);
    if (!ended_) {
      at_end_ = std::move(hook);
      return;
    }
  }
  hook(absl::CancelledError("The session is over."));
}

void ClientSession::SetWarmExtras(std::shared_ptr<const WarmExtras> extras) {
  std::lock_guard lock(mutex_);
  warm_extras_ = std::move(extras);
}

std::shared_ptr<const WarmExtras> ClientSession::warm_extras() const {
  std::lock_guard lock(mutex_);
  return warm_extras_;
}

absl::Status ClientSession::Join(Membership membership) {
  std::lock_guard lock(mutex_);
  if (membership_.has_value()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "ALREADY_OPEN",
                     "This session has joined a job already.", "open");
  }
  builder_ = std::make_unique<RegistrationBuilder>(membership.mesh, membership.rank, membership.world_size,
                                                   parts_.registrations);
  membership_ = std::move(membership);
  return absl::OkStatus();
}

std::optional<Membership> ClientSession::membership() const {
  std::lock_guard lock(mutex_);
  return membership_;
}

absl::StatusOr<std::shared_ptr<const Registration>> ClientSession::Register(
    const v1::RegisterRequest& request) {
  std::lock_guard registering(register_mutex_);
  if (!membership().has_value()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_OPEN", "Call Open before Register.",
                     "register");
  }
  const std::shared_ptr<const Registration> previous = registration();
  auto added = builder_->Add(request, previous);
  if (!added.ok() || *added == nullptr) return added;
  if (absl::Status status = OpenGpuMemory(**added); !status.ok()) return status;
  {
    std::lock_guard lock(mutex_);
    registrations_[(*added)->generation] = *added;
    if (registrations_.size() > kGenerationsKept) registrations_.erase(registrations_.begin());
  }
  if (previous != nullptr && previous->devices != nullptr) memory_.CloseAllBut((*added)->devices.get());
  return added;
}

absl::Status ClientSession::OpenGpuMemory(Registration& registration) {
  if (registration.gpu_memory.empty()) return absl::OkStatus();
  auto table = memory_.Open(registration.gpu_memory);
  if (!table.ok()) return table.status();
  registration.devices = *std::move(table);
  return absl::OkStatus();
}

std::shared_ptr<const Registration> ClientSession::registration() const {
  std::lock_guard lock(mutex_);
  return registrations_.empty() ? nullptr : registrations_.rbegin()->second;
}

absl::StatusOr<std::shared_ptr<const Registration>> ClientSession::RegistrationOf(uint64_t generation) const {
  std::lock_guard lock(mutex_);
  auto found = generation == 0 && !registrations_.empty() ? std::prev(registrations_.end())
                                                          : registrations_.find(generation);
  if (found == registrations_.end()) {
    return MakeError(
        absl::StatusCode::kNotFound, "NOT_REGISTERED",
        absl::StrCat("Generation ", generation, " is not registered here. Register, then try again."),
        "register");
  }
  return found->second;
}

}  // namespace keepstep::daemon
