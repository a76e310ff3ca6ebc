#include "client/command/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/unique_fd.h"

namespace keepstep::client {
namespace {

constexpr char kProgram[] = "keepstepd";
constexpr char kReady[] = " ready on ";
constexpr int64_t kEndMs = 5000;
constexpr size_t kLogShown = 2000;

bool IsProgram(const std::string& path) { return access(path.c_str(), X_OK) == 0; }

absl::Status Errno(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", strerror(errno)));
}

// What was written to the log since `from_bytes`, or its end.
std::string LogTail(int log_fd, off_t from_bytes) {
  const off_t end = lseek(log_fd, 0, SEEK_END);
  const off_t begin = std::max(from_bytes, end - static_cast<off_t>(kLogShown));
  std::string text(std::max<off_t>(end - begin, 0), '\0');
  const ssize_t got = pread(log_fd, text.data(), text.size(), begin);
  text.resize(std::max<ssize_t>(got, 0));
  while (absl::EndsWith(text, "\n")) text.pop_back();
  return text;
}

// In the child: only calls that are safe between fork and exec.
[[noreturn]] void Become(const char* program, char* const* argv, int out_fd, int log_fd) {
  const int null_fd = open("/dev/null", O_RDONLY);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(null_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(log_fd, 2) < 0) _exit(127);
  syscall(SYS_close_range, 3, ~0U, 0);  // what the caller's shell has open is not the daemon's
  execv(program, argv);
  _exit(127);
}

// One line from the child, or why there is none.
absl::StatusOr<std::string> ReadReady(int fd, int log_fd, off_t log_begin, int64_t timeout_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string text;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now())
            .count();
    if (left <= 0)
      return absl::DeadlineExceededError(
          absl::StrCat("keepstepd was not ready in time. ", LogTail(log_fd, log_begin)));
    pollfd readable{fd, POLLIN, 0};
    if (poll(&readable, 1, static_cast<int>(std::min<int64_t>(left, INT_MAX))) <= 0) continue;
    char buffer[512];
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got <= 0)
      return absl::FailedPreconditionError(absl::StrCat("keepstepd ended: ", LogTail(log_fd, log_begin)));
    text.append(buffer, static_cast<size_t>(got));
    const size_t line_end = text.find('\n');
    if (line_end != std::string::npos && absl::StrContains(text, kReady)) return text.substr(0, line_end);
  }
}

// A service serves every rank of the machine: what binds the caller to some processors and their memory does
// not bind it.
void Unbind() {
  uint64_t all[128];
  std::memset(all, 0xff, sizeof(all));
  syscall(SYS_sched_setaffinity, 0, sizeof(all), all);  // as far as the control group allows
  syscall(SYS_set_mempolicy, 0 /* MPOL_DEFAULT */, nullptr, 0);
  if (chdir("/") != 0) _exit(127);
}

std::vector<char*> Pointers(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<char*> out{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) out.push_back(const_cast<char*>(argument.c_str()));
  out.push_back(nullptr);
  return out;
}

// A child that ends with this process, and its standard streams.
struct Child {
  pid_t pid = 0;
  UniqueFd out, log;
};

absl::StatusOr<Child> StartChild(const std::string& program, const std::vector<std::string>& arguments) {
  Child started{.log = UniqueFd(memfd_create("keepstepd-log", MFD_CLOEXEC))};
  if (!started.log.valid()) return Errno("memfd_create");
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return Errno("pipe");
  started.out = UniqueFd(pipe_fds[0]);
  const UniqueFd write_end(pipe_fds[1]);
  const std::vector<char*> argv = Pointers(program, arguments);
  const pid_t parent = getpid();
  started.pid = fork();
  if (started.pid < 0) return Errno("fork");
  if (started.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);  // it was too late
    setpgid(0, 0);                        // Ctrl-C is for the command, which ends this one
    Become(program.c_str(), argv.data(), write_end.get(), started.log.get());
  }
  return started;
}

// Waits for its end; one that has not ended in time is killed. The status is waitpid's.
int AwaitEnd(pid_t pid, int64_t timeout_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= until) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      break;
    }
    usleep(5000);
  }
  return status;
}

// Until the other end is closed.
std::string ReadAll(int fd, int64_t timeout_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string text;
  char buffer[4096];
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    pollfd readable{fd, POLLIN, 0};
    if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) <= 0) return text;
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got <= 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

absl::StatusOr<std::string> FindKeepstepd() {
  if (const char* given = std::getenv("KEEPSTEPD"); given != nullptr && *given != '\0') {
    if (IsProgram(given)) return std::string(given);
    return absl::NotFoundError(absl::StrCat("$KEEPSTEPD is ", given, ", which is no program"));
  }
  char own[PATH_MAX] = {};
  if (readlink("/proc/self/exe", own, sizeof(own) - 1) > 0) {
    const std::string beside =
        absl::StrCat(std::string(own).substr(0, std::string(own).rfind('/')), "/", kProgram);
    if (IsProgram(beside)) return beside;
  }
  const char* path = std::getenv("PATH");
  for (absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':', absl::SkipEmpty())) {
    const std::string candidate = absl::StrCat(folder, "/", kProgram);
    if (absl::StartsWith(folder, "/") && IsProgram(candidate)) return candidate;
  }
  return absl::NotFoundError(
      "keepstepd is neither beside keepstep nor on $PATH; set KEEPSTEPD to where it is");
}

absl::StatusOr<std::string> OutputOf(const std::string& program, const std::vector<std::string>& arguments,
                                     int64_t timeout_ms) {
  auto started = StartChild(program, arguments);
  if (!started.ok()) return started.status();
  const std::string text = ReadAll(started->out.get(), timeout_ms);
  const int status = AwaitEnd(started->pid, kEndMs);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  return absl::FailedPreconditionError(absl::StrCat(program, ": ", LogTail(started->log.get(), 0)));
}

absl::StatusOr<std::string> LaunchService(const std::string& program,
                                          const std::vector<std::string>& arguments,
                                          const std::string& log_path, int64_t timeout_ms) {
  UniqueFd log(open(log_path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!log.valid()) return Errno(log_path);
  const off_t log_begin = lseek(log.get(), 0, SEEK_END);
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return Errno("pipe");
  UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  const std::vector<char*> argv = Pointers(program, arguments);
  const pid_t child = fork();
  if (child < 0) return Errno("fork");
  if (child == 0) {
    setsid();
    if (fork() != 0)
      _exit(0);  // the service is nobody's child, and leads no session that could get a terminal
    Unbind();
    Become(program.c_str(), argv.data(), write_end.get(), log.get());
  }
  int status = 0;
  waitpid(child, &status, 0);
  write_end = UniqueFd();
  return ReadReady(read_end.get(), log.get(), log_begin, timeout_ms);
}

absl::StatusOr<std::unique_ptr<ChildDaemon>> ChildDaemon::Start(const std::string& program,
                                                                const std::vector<std::string>& arguments,
                                                                int64_t timeout_ms) {
  auto started = StartChild(program, arguments);
  if (!started.ok()) return started.status();
  auto ready = ReadReady(started->out.get(), started->log.get(), 0, timeout_ms);
  std::unique_ptr<ChildDaemon> daemon(new ChildDaemon(started->pid, ready.ok() ? *ready : ""));
  if (!ready.ok()) return ready.status();
  return daemon;
}

std::string ChildDaemon::address() const {
  const size_t at = ready_line_.find(kReady);
  return at == std::string::npos ? "" : ready_line_.substr(at + sizeof(kReady) - 1);
}

ChildDaemon::~ChildDaemon() {
  kill(pid_, SIGTERM);
  AwaitEnd(pid_, kEndMs);
}

}  // namespace keepstep::client
