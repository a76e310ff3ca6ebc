// One function for each of libc's, all of the same form: ask the hook, make the call, tell the hook.

#include "tests/crash/seam.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <climits>

namespace keepstep::crash {

long Raw(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

namespace {

std::atomic<Hook*> hook{nullptr};

long Long(const void* pointer) { return reinterpret_cast<long>(pointer); }

// The path of an open file, or of `name` in an open directory.
class Path {
 public:
  Path(int directory, const char* name) {
    size_t used = 0;
    if (name == nullptr || name[0] != '/') {
      char link[40];
      snprintf(link, sizeof(link), "/proc/self/fd/%d", directory);
      long size = Raw(SYS_readlinkat, AT_FDCWD, Long(directory == AT_FDCWD ? "/proc/self/cwd" : link),
                      Long(text_), sizeof(text_) - 1);
      used = size > 0 ? static_cast<size_t>(size) : 0;
      if (name != nullptr && used + 1 < sizeof(text_)) text_[used++] = '/';
    }
    if (name != nullptr) used += strlcpy_(text_ + used, name, sizeof(text_) - used);
    text_[used] = '\0';
    size_ = used;
  }
  const char* text() const { return text_; }
  Target target() const { return text_[0] == '/' ? TargetOf({text_, size_}) : Target::kNone; }

 private:
  static size_t strlcpy_(char* to, const char* from, size_t room) {
    const size_t size = strnlen(from, room - 1);
    memcpy(to, from, size);
    return size;
  }
  char text_[PATH_MAX];
  size_t size_ = 0;
};

// Runs `call`, a function of the most bytes that it may move, under the hook; the result with errno, as libc
// has it.
template <typename Function>
long Guard(Call call, int fd, int directory, const char* name, const Function& run) {
  Hook* const now = hook.load(std::memory_order_acquire);
  long result = 0;
  if (now == nullptr) {
    result = run(SIZE_MAX);
  } else {
    const bool told = call == Call::kSend;
    const Path path(fd >= 0 ? fd : directory, fd >= 0 ? nullptr : name);
    const Target target = told ? Target::kClient : path.target();
    if (target == Target::kNone) {
      result = run(SIZE_MAX);
    } else {
      const Passing passing{call, target, fd, path.text()};
      const Verdict verdict = now->Before(passing);
      // A close that fails has closed.
      if (verdict.error == 0 || call == Call::kClose) result = run(verdict.most_bytes);
      if (verdict.error != 0) result = -verdict.error;
      if (result >= 0) {
        const int error = now->After(passing);
        if (error != 0) result = -error;
      }
    }
  }
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
}

long Open(int directory, const char* path, int flags, mode_t mode) {
  return Guard((flags & O_CREAT) != 0 ? Call::kCreate : Call::kOpen, -1, directory, path,
               [&](size_t) { return Raw(SYS_openat, directory, Long(path), flags, mode); });
}

long OpenBeneath(int directory, const char* path, const open_how* how, size_t size) {
  return Guard((how->flags & O_CREAT) != 0 ? Call::kCreate : Call::kOpen, -1, directory, path,
               [&](size_t) { return Raw(SYS_openat2, directory, Long(path), Long(how), size); });
}

// One vector of the size that the hook allows.
long Vector(long number, Call call, int fd, const iovec* pieces, int count, off_t offset, int flags) {
  return Guard(call, fd, -1, nullptr, [&](size_t most) {
    iovec first = pieces[0];
    if (most == SIZE_MAX) return Raw(number, fd, Long(pieces), count, offset, 0, flags);
    first.iov_len = first.iov_len < most ? first.iov_len : most;
    return Raw(number, fd, Long(&first), 1, offset, 0, flags);
  });
}

long Move(long number, Call call, int fd, const void* data, size_t size, off_t offset) {
  return Guard(call, fd, -1, nullptr,
               [&](size_t most) { return Raw(number, fd, Long(data), size < most ? size : most, offset); });
}

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

void SetHook(Hook* next) { hook.store(next, std::memory_order_release); }

}  // namespace keepstep::crash

using namespace keepstep::crash;  // NOLINT: what follows are libc's names

extern "C" {

long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& one : a) one = va_arg(list, long);
  va_end(list);
  if (number == SYS_openat2) {
    return OpenBeneath(static_cast<int>(a[0]), reinterpret_cast<const char*>(a[1]),
                       reinterpret_cast<const open_how*>(a[2]), static_cast<size_t>(a[3]));
  }
  const long result = Raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return static_cast<int>(Open(AT_FDCWD, path, flags, mode));
}

int openat(int directory, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return static_cast<int>(Open(directory, path, flags, mode));
}

int mkdir(const char* path, mode_t mode) {
  return static_cast<int>(Guard(Call::kMkdir, -1, AT_FDCWD, path,
                                [&](size_t) { return Raw(SYS_mkdirat, AT_FDCWD, Long(path), mode); }));
}

int mkdirat(int directory, const char* path, mode_t mode) {
  return static_cast<int>(Guard(Call::kMkdir, -1, directory, path,
                                [&](size_t) { return Raw(SYS_mkdirat, directory, Long(path), mode); }));
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
  return static_cast<int>(Guard(Call::kReserve, fd, -1, nullptr,
                                [&](size_t) { return Raw(SYS_fallocate, fd, mode, offset, size); }));
}

ssize_t write(int fd, const void* data, size_t size) {
  return Move(SYS_write, Call::kWrite, fd, data, size, 0);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return Move(SYS_pwrite64, Call::kWrite, fd, data, size, offset);
}
ssize_t pwritev2(int fd, const iovec* pieces, int count, off_t offset, int flags) {
  return Vector(SYS_pwritev2, Call::kWrite, fd, pieces, count, offset, flags);
}
ssize_t read(int fd, void* data, size_t size) { return Move(SYS_read, Call::kRead, fd, data, size, 0); }
ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  return Move(SYS_pread64, Call::kRead, fd, data, size, offset);
}
ssize_t preadv2(int fd, const iovec* pieces, int count, off_t offset, int flags) {
  return Vector(SYS_preadv2, Call::kRead, fd, pieces, count, offset, flags);
}

int ftruncate(int fd, off_t size) {
  return static_cast<int>(
      Guard(Call::kTruncate, fd, -1, nullptr, [&](size_t) { return Raw(SYS_ftruncate, fd, size); }));
}
int fsync(int fd) {
  return static_cast<int>(Guard(Call::kSync, fd, -1, nullptr, [&](size_t) { return Raw(SYS_fsync, fd); }));
}
int fdatasync(int fd) {
  return static_cast<int>(
      Guard(Call::kSync, fd, -1, nullptr, [&](size_t) { return Raw(SYS_fdatasync, fd); }));
}
int close(int fd) {
  return static_cast<int>(Guard(Call::kClose, fd, -1, nullptr, [&](size_t) { return Raw(SYS_close, fd); }));
}

int linkat(int from, const char* old_path, int to, const char* new_path, int flags) {
  return static_cast<int>(Guard(Call::kLink, -1, to, new_path, [&](size_t) {
    return Raw(SYS_linkat, from, Long(old_path), to, Long(new_path), flags);
  }));
}
int renameat2(int from, const char* old_path, int to, const char* new_path, unsigned flags) noexcept {
  return static_cast<int>(Guard(Call::kRename, -1, to, new_path, [&](size_t) {
    return Raw(SYS_renameat2, from, Long(old_path), to, Long(new_path), flags);
  }));
}
int rename(const char* old_path, const char* new_path) {
  return static_cast<int>(Guard(Call::kRename, -1, AT_FDCWD, new_path, [&](size_t) {
    return Raw(SYS_renameat2, AT_FDCWD, Long(old_path), AT_FDCWD, Long(new_path), 0);
  }));
}
int unlink(const char* path) {
  return static_cast<int>(Guard(Call::kUnlink, -1, AT_FDCWD, path,
                                [&](size_t) { return Raw(SYS_unlinkat, AT_FDCWD, Long(path), 0); }));
}
int unlinkat(int directory, const char* path, int flags) {
  return static_cast<int>(Guard(Call::kUnlink, -1, directory, path,
                                [&](size_t) { return Raw(SYS_unlinkat, directory, Long(path), flags); }));
}

int fstat(int fd, struct stat* about) {
  return static_cast<int>(
      Guard(Call::kStat, fd, -1, nullptr, [&](size_t) { return Raw(SYS_fstat, fd, Long(about)); }));
}
int fstatat(int directory, const char* path, struct stat* about, int flags) {
  return static_cast<int>(Guard(Call::kStat, -1, directory, path, [&](size_t) {
    return Raw(SYS_newfstatat, directory, Long(path), Long(about), flags);
  }));
}
int fstatvfs(int fd, struct statvfs* about) {
  static const auto next = Next<int (*)(int, struct statvfs*)>("fstatvfs");
  return static_cast<int>(
      Guard(Call::kStat, fd, -1, nullptr, [&](size_t) { return next(fd, about) == 0 ? 0L : -long{errno}; }));
}

dirent* readdir(DIR* directory) {
  static const auto next = Next<dirent* (*)(DIR*)>("readdir");
  dirent* entry = nullptr;
  const int before = errno;
  const long result = Guard(Call::kList, dirfd(directory), -1, nullptr, [&](size_t) {
    errno = 0;
    entry = next(directory);
    return entry == nullptr && errno != 0 ? -long{errno} : 0L;
  });
  if (result != 0) return nullptr;
  errno = before;
  return entry;
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  return Guard(Call::kSend, fd, -1, nullptr,
               [&](size_t) { return Raw(SYS_sendmsg, fd, Long(message), flags); });
}

}  // extern "C"
