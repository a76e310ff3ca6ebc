#include "client/client.h"

#include <unistd.h>

#include <utility>

namespace keepstep::client {

Client::Client(const Limits& limits)
    : owner_(getpid()),
      limits_(limits),
      window_samples_(&devices_),
      ledger_(&window_samples_),
      gate_(&ledger_, limits) {}

absl::StatusOr<std::unique_ptr<Client>> Client::Open(SessionSpec spec, Deadline deadline) {
  if (absl::Status status = GrpcUse::Check(); !status.ok()) return status;
  std::unique_ptr<Client> client(new Client(spec.limits));
  if (spec.rescue) {
    auto recorder = FlightRecorder::Make(&client->devices_);
    if (!recorder.ok()) return recorder.status();
    client->recorder_ = *std::move(recorder);
    spec.recorder = client->recorder_.get();
  }
  client->may_restart_ = spec.open.warm();
  auto session =
      Session::Start(std::move(spec), &client->ledger_, &client->buffers_, &client->devices_,
                     &client->window_samples_, deadline);
  if (!session.ok()) return session.status();
  client->session_ = *std::move(session);
  client->watchdog_ = std::make_unique<Watchdog>(&client->ledger_, client->limits_);
  client->sealer_ = std::make_unique<Sealer>(&client->ledger_, client->limits_);
  client->saves_ = std::make_unique<Saves>(client->session_.get(), &client->ledger_, &client->gate_,
                                           client->sealer_.get(), &client->devices_, &client->window_samples_, client->limits_);
  client->stream_gates_ = std::make_unique<StreamGates>(client->session_.get(), &client->ledger_, &client->gate_,
                                                        &client->devices_);
  client->owned_memory_ = std::make_unique<OwnedMemory>(client->session_.get(), &client->devices_, client->limits_);
  return client;
}

// The last seals go out before the goodbye; the session's end frees every call that still waits for it.
Client::~Client() {
  sealer_.reset();
  stream_gates_.reset();
  if (session_ != nullptr) session_->Close();
  saves_.reset();
  owned_memory_.reset();
  session_.reset();
}

absl::Status Client::BeforeUpdate(uint32_t group, Deadline deadline) {
  if (recorder_ != nullptr) recorder_->Unordered(group);
  return gate_.Wait(group, deadline);
}

// The record's word comes behind the gate's wait: an update that waits has not begun.
absl::Status Client::BeforeUpdateOn(uint32_t group, void* stream, Deadline deadline) {
  absl::Status status = stream_gates_->BeforeUpdate(group, stream, deadline);
  if (status.ok() && recorder_ != nullptr) recorder_->Begin(group, stream);
  return status;
}

bool Client::ShouldSave(int64_t step, int64_t every) {
  // Stored before `save_at` is read: the daemon raises save_at above every step that it has seen stored.
  session_->StoreStep(step);
  const std::shared_ptr<SessionPages> pages = ledger_.pages();
  const bool due = every > 0 && step > 0 && step % every == 0;
  return due || (step >= 0 && pages->daemon().save_at.load() == step);
}

bool Client::Forked() const { return getpid() != owner_; }

}  // namespace keepstep::client
