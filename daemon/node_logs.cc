// Node.Logs.

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/log_view.h"
#include "daemon/node_service.h"
#include "daemon/reactors.h"

namespace keepstep::daemon {
namespace {

constexpr int32_t kLinesByDefault = 100, kLinesAtMost = 1000;
using Stream = EventStream<v1::LogLine>;

// Carries new lines to one caller. A line that comes asks for a run on the executor, unless one is asked for
// already: whoever logs is never held up, and filtering may take the registry's lock.
class LogTail : public std::enable_shared_from_this<LogTail> {
 public:
  LogTail(ServerState& state, LogView view, std::shared_ptr<Stream> stream)
      : state_(state), view_(std::move(view)), stream_(std::move(stream)) {}

  void Send(size_t most) {
    std::lock_guard lock(mutex_);
    const std::vector<LogLine> lines = state_.log_ring->After(sent_, kLogLinesKept);
    if (lines.empty()) return;
    sent_ = lines.back().number;
    std::vector<v1::LogLine> visible = view_.Filter(lines);
    const size_t first = visible.size() > most ? visible.size() - most : 0;
    for (size_t i = first; i < visible.size(); ++i) stream_->Push(std::move(visible[i]));
  }

  void OnNewLine() {
    if (asked_.exchange(true)) return;
    const bool queued = state_.calls->TrySubmit([self = shared_from_this()] {
      self->asked_ = false;
      self->Send(kLogLinesKept);
    });
    if (!queued) asked_ = false;  // the next line asks again
  }

 private:
  ServerState& state_;
  const LogView view_;
  const std::shared_ptr<Stream> stream_;
  std::atomic<bool> asked_{false};
  std::mutex mutex_;
  uint64_t sent_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<v1::LogLine>* NodeService::Logs(grpc::CallbackServerContext* context,
                                                         const v1::LogsRequest* request) {
  auto stream = Stream::Make();
  auto session = OptionalSession(state_, *context);
  absl::Status status = session.status();
  std::string label = request->job();
  if (status.ok() && (!label.empty() || (*session != nullptr && (*session)->directory_fd() >= 0))) {
    auto job = state_.jobs->Find(label, session->get());
    status = job.status();
    if (job.ok()) label = (*job)->label();
  }
  if (status.ok() && (request->lines() < 0 || request->lines() > kLinesAtMost)) {
    status = MakeError(absl::StatusCode::kInvalidArgument, "PAGE_SIZE",
                       absl::StrCat("`lines` is 1..", kLinesAtMost, ", or 0 for ", kLinesByDefault, "."));
  }
  if (!status.ok()) {
    stream->Close(status);
    return stream.get();
  }
  auto tail = std::make_shared<LogTail>(state_, LogView(state_, *session, label), stream);
  uint64_t ticket = 0;
  if (request->follow()) {
    ticket = state_.log_ring->Listen([weak = std::weak_ptr<LogTail>(tail)] {
      if (auto self = weak.lock()) self->OnNewLine();
    });
    if (ticket == 0) {
      stream->Close(MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_FOLLOWERS",
                              "Too many callers follow the log already. Ask again without following."));
      return stream.get();
    }
  }
  const size_t lines = request->lines() == 0 ? kLinesByDefault : request->lines();
  const bool follow = request->follow();
  // The tail lives as long as the stream: the one who is told of its end holds it.
  stream->WhenGone([this, ticket, tail] { state_.log_ring->Unlisten(ticket); });
  if (!state_.calls->TrySubmit([tail, stream, lines, follow] {
        tail->Send(lines);
        if (!follow) stream->Close(absl::OkStatus());
      })) {
    stream->Close(TooManyCalls());
  }
  return stream.get();
}

}  // namespace keepstep::daemon
