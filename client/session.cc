#include "client/session.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/thread.h"

namespace keepstep::client {
namespace {

// The memory is what it was said to be, and this daemon cannot have it: another container, a GPU in exclusive
// mode.
bool CannotMap(const absl::Status& status) {
  const std::string reason = BlameOf(status).reason;
  return reason == "NO_GPU" || (reason == "BAD_HANDLE" && absl::IsFailedPrecondition(status));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::Start(SessionSpec spec, SaveLedger* ledger,
                                                        BufferTable* buffers, Devices* devices,
                                                        WindowSamples* samples, Deadline deadline) {
  std::unique_ptr<Session> session(new Session(std::move(spec), ledger, buffers, devices, samples));
  if (absl::Status status = session->OpenDirectory(); !status.ok()) return status;
  session->keeper_ = StartThread("ks-session", [raw = session.get()] { raw->Run(); });
  auto connected = session->AwaitConnected(deadline);
  if (!connected.ok()) return connected.status();
  return session;
}

Session::Session(SessionSpec spec, SaveLedger* ledger, BufferTable* buffers, Devices* devices,
                 WindowSamples* samples)
    : spec_(std::move(spec)),
      ledger_(ledger),
      buffers_(buffers),
      devices_(devices),
      samples_(samples),
      nonce_(new uint8_t[proto::kNonceBytes]) {
  for (size_t filled = 0; filled < proto::kNonceBytes;) {
    const ssize_t got = getrandom(nonce_.get() + filled, proto::kNonceBytes - filled, 0);
    if (got > 0) filled += got;
  }
}

Session::~Session() {
  Close();
  if (keeper_.joinable()) keeper_.join();
}

void Session::Close() {
  stop_.Set();
  std::lock_guard lock(mu_);
  if (!ended_.ok()) return;
  ended_ = MakeError(absl::StatusCode::kFailedPrecondition, "CLOSED", "the client is closed");
  changed_.notify_all();
  if (handoff_ != nullptr) handoff_->SendGoodbye();
  if (channel_ != nullptr) channel_->Cancel();
}

absl::Status Session::OpenDirectory() {
  const char* path = spec_.directory.c_str();
  const bool may_make = spec_.open.mode() == v1::OpenRequest::TRAIN;
  constexpr mode_t kAllThatUmaskAllows = 0777;
  const bool made = may_make && mkdir(path, kAllThatUmaskAllows) == 0;
  directory_ = UniqueFd(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory_.valid()) return absl::OkStatus();
  const auto code = errno == EACCES ? absl::StatusCode::kPermissionDenied : absl::StatusCode::kNotFound;
  return MakeError(code, code == absl::StatusCode::kNotFound ? "NO_DIRECTORY" : "NO_ACCESS",
                   absl::StrCat(spec_.directory, made ? ": made, but " : ": ", strerror(errno)), "open");
}

absl::StatusOr<std::shared_ptr<Channel>> Session::AwaitConnected(Deadline deadline) {
  auto connection = AwaitConnection(deadline);
  if (!connection.ok()) return connection.status();
  return connection->channel;
}

absl::StatusOr<Session::Connection> Session::AwaitConnection(Deadline deadline) {
  std::unique_lock lock(mu_);
  const auto settled = [&] { return info_.connected || !ended_.ok(); };
  if (deadline == kNever) {
    changed_.wait(lock, settled);
  } else if (!changed_.wait_until(lock, deadline, settled)) {
    const std::string cause(last_try_.ok() ? "it does not answer" : last_try_.message());
    return MakeError(
        absl::StatusCode::kDeadlineExceeded, "DISCONNECTED",
        absl::StrCat("no session with the daemon at ", spec_.address.grpc_path, " in time: ", cause), "open");
  }
  if (!ended_.ok()) return ended_;
  return Connection{channel_, handoff_};
}

void Session::Run() {
  int64_t backoff_ms = spec_.limits.backoff_first_ms;
  while (!stop_.Wait(0)) {
    const absl::Status status = ConnectAndServe();
    bool was_connected = false;
    {
      std::lock_guard lock(mu_);
      was_connected = std::exchange(info_.connected, false);
      last_try_ = status;
      if (channel_ != nullptr) channel_->Cancel();
    }
    if (stop_.Wait(0)) return;
    if (Ends(status)) return End(status);
    backoff_ms = was_connected ? spec_.limits.backoff_first_ms
                               : std::min(2 * backoff_ms, spec_.limits.backoff_last_ms);
    stop_.Wait(backoff_ms);
  }
}

absl::Status Session::ConnectAndServe() {
  HandoffSpec handoff_spec{.socket_path = spec_.address.handoff_path,
                           .directory = spec_.directory,
                           .directory_fd = directory_.get(),
                           .flight_record_fd = spec_.recorder == nullptr ? -1 : spec_.recorder->fd(),
                           .nonce = nonce_.get(),
                           .want = spec_.transfer};
  {
    std::lock_guard lock(mu_);
    if (wants_window_) handoff_spec.want = proto::Transfer::kWindow;
  }
  auto connected = HandoffClient::Connect(handoff_spec, After(spec_.limits.handshake_ms));
  if (!connected.ok()) return connected.status();
  const std::shared_ptr<HandoffClient> handoff = *std::move(connected);
  std::shared_ptr<HandoffClient> before;
  {
    std::lock_guard lock(mu_);
    before = std::exchange(handoff_, handoff);
    socket_fd_ = handoff->socket_fd();
    handoff->client().step_stored = step_stored_;
    handoff->client().wishes_save = wishes_save_;
  }
  const bool restarted =
      before != nullptr && (before->DaemonGone() || before->daemon_pid() != handoff->daemon_pid());
  ledger_->Install(handoff);
  std::optional<CopyThread> copy_thread;
  if (handoff->transfer() == proto::Transfer::kWindow)
    copy_thread.emplace(handoff, buffers_, devices_, spec_.limits.copy_threads, [this] { samples_->BeforeCopy(); });
  const absl::Status status = Serve(handoff, restarted);
  handoff->Shutdown();
  return status;
}

absl::Status Session::Serve(const std::shared_ptr<HandoffClient>& handoff, bool restarted) {
  auto channel = std::make_shared<Channel>(spec_.address.grpc_path, handoff->token_hex());
  {
    std::lock_guard lock(mu_);
    channel_ = channel;
    if (stop_.Wait(0)) return absl::CancelledError();
  }
  absl::Status cause;
  const absl::Status status = channel->Open(OpenMessage(), [&](const v1::SessionEvent& event) {
    if (event.has_opened()) {
      cause = Opened(event.opened(), restarted, {channel, handoff});
      if (!cause.ok()) channel->Cancel();
    } else if (event.has_epoch_moved()) {
      std::lock_guard lock(mu_);
      info_.epoch = event.epoch_moved().epoch();
    } else if (event.has_closed()) {
      cause = FromFailure(event.closed());
    }
  });
  return cause.ok() ? status : cause;
}

v1::OpenRequest Session::OpenMessage() const {
  v1::OpenRequest request = spec_.open;
  request.set_nonce(nonce_.get(), proto::kNonceBytes);
  request.set_saves_issued(ledger_->issued());
  std::lock_guard lock(mu_);
  if (opened_once_) request.set_epoch(info_.epoch);
  return request;
}

absl::Status Session::Opened(const v1::Opened& opened, bool restarted, const Connection& connection) {
  bool resumed = false;
  {
    std::lock_guard lock(mu_);
    resumed = std::exchange(opened_once_, true);
    info_.epoch = opened.epoch();
    info_.daemon_version = opened.daemon_version();
    info_.job = opened.job();
    info_.transfer = connection.handoff->transfer();
    info_.maps_gpu_memory = connection.handoff->maps_gpu_memory();
  }
  if (resumed) ledger_->Resumed(opened, restarted);
  if (absl::Status status = RegisterAgain(connection); !status.ok()) return status;
  std::lock_guard lock(mu_);
  info_.connected = true;
  changed_.notify_all();
  return absl::OkStatus();
}

absl::Status Session::RegisterAgain(const Connection& connection) {
  std::lock_guard sending(send_mu_);
  const std::shared_ptr<const Declared> declared = this->declared();
  if (declared == nullptr) return absl::OkStatus();
  return Send(*declared, connection, After(spec_.limits.register_ms));
}

// Declares all of it as the next generation. The caller holds send_mu_. UNAVAILABLE: the connection has
// ended, or is being ended because it has no window.
absl::Status Session::Send(const Declared& declared, const Connection& connection, Deadline deadline) {
  const bool maps = connection.handoff->maps_gpu_memory() && cannot_map_ != connection.handoff;
  const absl::Status status = SendOnce(declared, connection, maps, deadline);
  if (!maps || !CannotMap(status) || spec_.transfer == proto::Transfer::kPull) return status;
  std::fprintf(stderr, "keepstep: GPU memory goes through the window, as the daemon cannot map it: %s\n",
               std::string(status.message()).c_str());
  cannot_map_ = connection.handoff;
  return SendOnce(declared, connection, false, deadline);
}

absl::Status Session::SendOnce(const Declared& declared, const Connection& connection, bool maps,
                               Deadline deadline) {
  const DevicePaths paths = ChoosePaths(declared, maps);
  if (paths.NeedWindow() && connection.handoff->transfer() != proto::Transfer::kWindow)
    return AskForWindow(connection);
  auto memory = book_.Offer(paths, connection.handoff, devices_, deadline);
  if (!memory.ok()) return memory.status();
  const DeviceOffer offer{.by_window = paths.by_window, .memory = *std::move(memory)};
  const uint64_t generation = [&] {
    std::lock_guard lock(mu_);
    return ++generation_;
  }();
  const auto answer = SendRegistration(declared, offer, generation, connection.channel.get(), deadline);
  if (!answer.ok()) {
    book_.Refused();
    return answer.status();
  }
  book_.Taken();
  if (spec_.recorder != nullptr) {
    absl::string_view refusal;
    if (!answer->rescues()) refusal = answer->no_rescue().empty() ? "this daemon has none" : answer->no_rescue().c_str();
    spec_.recorder->Registered(declared, generation, paths.NeedWindow(), refusal);
  }
  const auto samples = paths.SamplesByWindow(declared.device_samples);
  std::lock_guard lock(mu_);
  window_samples_ = samples;
  info_.device_paths = paths.Text();
  info_.copies_gpu_memory = paths.NeedWindow();
  info_.maps_gpu_memory = maps;
  return absl::OkStatus();
}

// Ends the connection, so that the next one is opened with a window.
absl::Status Session::AskForWindow(const Connection& connection) {
  if (spec_.transfer == proto::Transfer::kPull) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NEEDS_WINDOW",
                     "GPU memory that the daemon cannot map goes through the window, and this client demands "
                     "pull: open it with transfer auto or window",
                     "register");
  }
  {
    std::lock_guard lock(mu_);
    wants_window_ = true;
    if (channel_ == connection.channel) info_.connected = false;
  }
  connection.channel->Cancel();
  return absl::UnavailableError("the session is opened again, with a window for GPU memory");
}

absl::Status Session::Register(std::shared_ptr<const Declared> declared, Deadline deadline) {
  while (true) {
    auto connection = AwaitConnection(deadline);
    if (!connection.ok()) return connection.status();
    {
      std::lock_guard sending(send_mu_);
      const absl::Status status = Send(*declared, *connection, deadline);
      if (status.ok()) {
        std::lock_guard lock(mu_);
        declared_ = declared;
        buffers_->Replace(declared->Ranges(), declared->allocations);
        return status;
      }
      if (!OutcomeUnknown(status) || Expired(deadline)) return status;
    }
    if (stop_.Wait(spec_.limits.backoff_first_ms)) return absl::CancelledError("the client is closing");
  }
}

std::shared_ptr<const Declared> Session::declared() const {
  std::lock_guard lock(mu_);
  return declared_;
}

uint64_t Session::generation() const {
  std::lock_guard lock(mu_);
  return generation_;
}

// Before the first opening only a daemon that answers is waited for; after it, any daemon.
bool Session::Ends(const absl::Status& status) const {
  switch (status.code()) {
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      break;
  }
  std::lock_guard lock(mu_);
  if (opened_once_) return false;
  return BlameOf(status).reason == "NO_DAEMON" || status.code() == absl::StatusCode::kPermissionDenied ||
         status.code() == absl::StatusCode::kResourceExhausted;
}

void Session::End(const absl::Status& status) {
  ledger_->PoisonAndOpen(status);
  std::lock_guard lock(mu_);
  if (ended_.ok()) ended_ = status;
  changed_.notify_all();
}

bool Session::copies_gpu_memory() const {
  std::lock_guard lock(mu_);
  return info_.copies_gpu_memory;
}

std::shared_ptr<const DeviceSamplePlan> Session::window_samples() const {
  std::lock_guard lock(mu_);
  return window_samples_;
}

void Session::StoreStep(int64_t step) {
  std::lock_guard lock(mu_);
  step_stored_ = std::max(step_stored_, step);
  handoff_->client().step_stored = step_stored_;
}

void Session::WishSave() {
  std::lock_guard lock(mu_);
  wishes_save_ = true;
  handoff_->client().wishes_save = 1;
}

SessionInfo Session::info() const {
  std::lock_guard lock(mu_);
  return info_;
}

void Session::AbandonInChild() {
  if (socket_fd_ >= 0) close(socket_fd_);
}

}  // namespace keepstep::client
