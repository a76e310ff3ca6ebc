// gRPC callback reactors in the three forms that the services need, so that a service method only decodes,
// calls, encodes.
//
// No thread waits for a caller without a limit: one that does not take what it asked for is cut off, and one
// that sends has no thread while it sends nothing.
//
// Each frees itself after the call. Finishing is once: the first end counts, and no response is touched after
// it.

#ifndef KEEPSTEP_DAEMON_REACTORS_H_
#define KEEPSTEP_DAEMON_REACTORS_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "daemon/cancellation.h"
#include "daemon/error.h"
#include "daemon/executor.h"
#include "daemon/grpc_status.h"

namespace keepstep::daemon {

inline absl::Status TooManyCalls() {
  return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
                   "The daemon has too many calls to answer. Try again in a moment.");
}

// A unary call that blocks, on `executor`.
inline grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* context, Executor* executor,
                                          std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!executor->TrySubmit([reactor, work = std::move(work)] { reactor->Finish(ToGrpc(work())); })) {
    reactor->Finish(ToGrpc(TooManyCalls()));
  }
  return reactor;
}

// A unary call that is answered by an event: a save accepted, a state reached.
class EventUnary : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<EventUnary> Make() {
    std::shared_ptr<EventUnary> unary(new EventUnary);
    unary->self_ = unary;
    return unary;
  }

  // `fill` writes the response, unless the call has ended already.
  void End(const absl::Status& status, const std::function<void()>& fill = nullptr) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(ended_, true)) return;
      if (fill) fill();
    }
    Finish(ToGrpc(status));
  }

  // Called once if the caller gives up; at once if it has.
  void WhenCancelled(std::function<void()> then) {
    {
      std::lock_guard lock(mutex_);
      if (!cancelled_) {
        when_cancelled_ = std::move(then);
        return;
      }
    }
    then();
  }

 private:
  EventUnary() = default;

  void OnCancel() override {
    std::function<void()> then;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      then = std::move(when_cancelled_);
    }
    if (then) then();
    End(absl::CancelledError("The caller gave up. What it waited for may still happen."));
  }
  void OnDone() override { auto last = std::move(self_); }

  std::mutex mutex_;
  bool ended_ = false, cancelled_ = false;
  std::function<void()> when_cancelled_;
  std::shared_ptr<EventUnary> self_;
};

// A stream of events that come when they come: sign of life, watching.
template <typename Message>
class EventStream : public grpc::ServerWriteReactor<Message> {
 public:
  // `gone` runs once, when the stream has ended for whatever reason.
  static std::shared_ptr<EventStream> Make() {
    std::shared_ptr<EventStream> stream(new EventStream);
    stream->self_ = stream;
    return stream;
  }

  void WhenGone(std::function<void()> gone) {
    {
      std::lock_guard lock(mutex_);
      if (!gone_) {
        when_gone_ = std::move(gone);
        return;
      }
    }
    gone();
  }

  // A reader that is far behind is cut off.
  void Push(Message message) {
    bool start = false;
    {
      std::lock_guard lock(mutex_);
      if (closing_) return;
      queue_.push_back(std::move(message));
      if (queue_.size() > kMaxQueued) {
        closing_ = true;
        status_ = TooManyCalls();
      }
      start = !std::exchange(writing_, true);
    }
    if (start) WriteNext();
  }

  // After what was pushed.
  void Close(absl::Status status) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(closing_, true)) return;
      status_ = std::move(status);
      if (std::exchange(writing_, true)) return;
    }
    WriteNext();
  }

 private:
  static constexpr size_t kMaxQueued = 1024;
  EventStream() = default;

  void WriteNext() {  // by whoever set writing_
    grpc::Status end;
    {
      std::lock_guard lock(mutex_);
      if (finished_) return;
      if (!queue_.empty() && !broken_) {
        current_ = std::move(queue_.front());
        queue_.pop_front();
        this->StartWrite(&current_);
        return;
      }
      if (!closing_) {
        writing_ = false;
        return;
      }
      finished_ = true;
      end = ToGrpc(status_);
    }
    this->Finish(end);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      std::lock_guard lock(mutex_);
      broken_ = closing_ = true;
    }
    WriteNext();
  }
  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      broken_ = closing_ = true;
      if (std::exchange(writing_, true)) return;  // its OnWriteDone ends the call
    }
    WriteNext();
  }
  void OnDone() override {
    std::function<void()> gone;
    {
      std::lock_guard lock(mutex_);
      gone_ = true;
      gone = std::move(when_gone_);
    }
    if (gone) gone();
    auto last = std::move(self_);
  }

  std::mutex mutex_;
  std::deque<Message> queue_;
  Message current_;
  bool writing_ = false, closing_ = false, broken_ = false, finished_ = false, gone_ = false;
  absl::Status status_;
  std::function<void()> when_gone_;
  std::shared_ptr<EventStream> self_;
};

// A stream written by a thread that blocks: bytes, progress. Nothing is lost if the caller gives up before
// Start.
template <typename Message>
class BlockingStream : public grpc::ServerWriteReactor<Message> {
 public:
  static std::shared_ptr<BlockingStream> Make(grpc::CallbackServerContext* context) {
    std::shared_ptr<BlockingStream> stream(new BlockingStream(context));
    stream->self_ = stream;
    return stream;
  }

  // Once. `work` runs on `executor`, unless the call has ended.
  void Start(Executor* executor, std::function<absl::Status(BlockingStream&)> work) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(started_, true)) return;
    }
    if (!executor->TrySubmit([this, work = std::move(work)] { this->Finish(ToGrpc(work(*this))); })) {
      this->Finish(ToGrpc(TooManyCalls()));
    }
  }
  void Refuse(const absl::Status& status) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(started_, true)) return;
    }
    this->Finish(ToGrpc(status));
  }

  // Within `work` alone, by one thread at a time. DEADLINE_EXCEEDED: the caller has taken nothing for
  // kCallerLimit; the call is over.
  absl::Status Write(const Message& message) {
    std::unique_lock lock(mutex_);
    done_ = false;
    this->StartWrite(&message);
    if (wake_.wait_for(lock, kCallerLimit, [&] { return done_; }))
      return ok_ ? absl::OkStatus() : absl::CancelledError("The caller has gone.");
    context_->TryCancel();  // ends the write
    wake_.wait(lock, [&] { return done_; });
    const absl::Status slow =
        MakeError(absl::StatusCode::kDeadlineExceeded, "SLOW_CALLER",
                  "The caller took nothing for 30 s. Read faster, or ask for less at a time.");
    cancellation_->Cancel(slow);
    return slow;
  }

  const std::shared_ptr<Cancellation>& cancellation() const { return cancellation_; }

 private:
  static constexpr std::chrono::seconds kCallerLimit{30};
  explicit BlockingStream(grpc::CallbackServerContext* context) : context_(context) {}

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    done_ = true;
    ok_ = ok;
    wake_.notify_one();
  }
  void OnCancel() override {
    const absl::Status gone = absl::CancelledError("The caller has gone.");
    cancellation_->Cancel(gone);
    Refuse(gone);
  }
  void OnDone() override { auto last = std::move(self_); }

  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
  std::mutex mutex_;
  std::condition_variable wake_;
  bool started_ = false, done_ = false, ok_ = true;
  std::shared_ptr<BlockingStream> self_;
};

// A client's stream, one message at a time: `take` may block, on `executor`, and no thread is held between
// messages.
template <typename Message>
class MessageReader : public grpc::ServerReadReactor<Message> {
 public:
  // `take` is called once per message, in order, until it fails; the call then ends with its error, else with
  // the stream. Frees itself.
  MessageReader(Executor* executor, std::function<absl::Status(const Message&)> take)
      : executor_(executor), take_(std::move(take)) {
    this->StartRead(&message_);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      this->Finish(grpc::Status::OK);
      return;
    }
    const bool submitted = executor_->TrySubmit([this] {
      if (absl::Status status = take_(message_); !status.ok()) {
        this->Finish(ToGrpc(status));
      } else {
        this->StartRead(&message_);
      }
    });
    if (!submitted) this->Finish(ToGrpc(TooManyCalls()));
  }
  void OnDone() override { delete this; }

  Executor* const executor_;
  const std::function<absl::Status(const Message&)> take_;
  Message message_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_REACTORS_H_
