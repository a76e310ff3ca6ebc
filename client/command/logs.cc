// logs: the daemon's own log, as far as the caller may see it.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "client/command/commands.h"
#include "client/command/interrupt.h"
#include "client/command/job_arg.h"

namespace keepstep::client {
namespace {

struct LogsOptions {
  std::string job;
  int lines = 100;
  bool follow = false;
};

void Print(const Globals& globals, const v1::LogLine& line) {
  if (globals.json) {
    PrintJsonLine(line);
    return;
  }
  printf("%s %s %s\n",
         absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMillis(line.unix_ms()), absl::UTCTimeZone())
             .c_str(),
         line.level().c_str(), line.text().c_str());
}

// Ends the call when Ctrl-C comes; a read of a stream waits for nothing else.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext* context)
      : thread_([this, context] {
          while (!done_) {
            if (!interrupt_.WaitFor(std::chrono::milliseconds(100))) continue;
            context->TryCancel();
            return;
          }
        }) {}
  ~CancelOnInterrupt() {
    done_ = true;
    thread_.join();
  }
  bool came() const { return interrupt_.came(); }

 private:
  const Interrupt interrupt_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

int RunLogs(const Globals& globals, const LogsOptions& options) {
  auto name = ParseJob(options.job);
  if (!name.ok()) return Complain(name.status(), "keepstep logs JOB");
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::LogsRequest request;
  request.set_job(JobOf(*name));
  request.set_lines(options.lines);
  request.set_follow(options.follow);
  const auto context = options.follow ? (*daemon)->UnlimitedContext() : (*daemon)->Context();
  const CancelOnInterrupt interrupt(context.get());
  auto stream = (*daemon)->node().Logs(context.get(), request);
  v1::LogLine line;
  while (stream->Read(&line)) {
    Print(globals, line);
    if (options.follow) fflush(stdout);
  }
  const grpc::Status status = stream->Finish();
  if (interrupt.came()) return 0;
  return status.ok() ? 0 : Complain(status, "keepstep status");
}

}  // namespace

void AddLogs(Program& program) {
  auto options = std::make_shared<LogsOptions>();
  auto* logs = program.Add(kSee, "logs", "The daemon's log: your jobs' lines, or all for its operator",
                           [&program, options] { return RunLogs(program.globals(), *options); });
  logs->add_option("JOB", options->job, "Only this job's lines");
  logs->add_flag("--follow,-f", options->follow, "Go on with what comes, until Ctrl-C");
  logs->add_option("--lines,-n", options->lines, "The newest so many lines")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
}

}  // namespace keepstep::client
