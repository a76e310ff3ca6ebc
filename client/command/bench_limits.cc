#include "client/command/bench_limits.h"

#include <fcntl.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/unique_fd.h"

namespace keepstep::client {
namespace {

constexpr int64_t kBlockBytes = 1 << 20, kPieceBytes = 8 << 20;
constexpr int kDiskThreads = 4, kCalls = 200;
constexpr size_t kAlignment = 4096;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Free {
  void operator()(void* memory) const { free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

Memory Aligned(int64_t size_bytes) {
  Memory memory(static_cast<char*>(aligned_alloc(kAlignment, static_cast<size_t>(size_bytes))));
  std::memset(memory.get(), 7, static_cast<size_t>(size_bytes));
  return memory;
}

// `work(thread)` on so many threads; the seconds that all took.
double Together(int threads, const std::function<void(int)>& work) {
  const double begin = Seconds();
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) running.emplace_back(work, i);
  for (std::thread& thread : running) thread.join();
  return Seconds() - begin;
}

absl::Status Errno(const std::string& path) {
  const std::string message = absl::StrCat(path, ": ", strerror(errno));
  return errno == ENOSPC || errno == EDQUOT ? absl::ResourceExhaustedError(message)
                                            : absl::FailedPreconditionError(message);
}

// Pieces of the file, each by whichever thread is free; 0 or the first errno.
int Pieces(int64_t size_bytes, const std::function<ssize_t(char* memory, int64_t offset_bytes)>& move) {
  std::atomic<int64_t> next{0};
  std::atomic<int> error{0};
  Together(kDiskThreads, [&](int) {
    const Memory memory = Aligned(kPieceBytes);
    for (;;) {
      const int64_t at = next.fetch_add(kPieceBytes);
      if (at >= size_bytes || error != 0) return;
      const ssize_t moved = move(memory.get(), at);
      if (moved != kPieceBytes) error = moved < 0 ? errno : EIO;
    }
  });
  return error;
}

}  // namespace

double MeasureCopy(int64_t size_bytes, bool digest) {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int64_t share = std::max(kBlockBytes, size_bytes / threads / kBlockBytes * kBlockBytes);
  std::vector<Memory> from, to;
  for (int i = 0; i < threads; ++i) {
    from.push_back(Aligned(share));
    to.push_back(Aligned(share));
  }
  std::atomic<uint64_t> keep{0};  // so that no digest is optimized away
  const auto work = [&](int thread) {
    for (int64_t at = 0; at < share; at += kBlockBytes) {
      std::memcpy(to[thread].get() + at, from[thread].get() + at, kBlockBytes);
      if (digest) keep += XXH3_128bits(to[thread].get() + at, kBlockBytes).low64;
    }
  };
  double best = Together(threads, work);
  for (int i = 0; i < 2; ++i) best = std::min(best, Together(threads, work));
  return static_cast<double>(share * threads) / best;
}

absl::StatusOr<DiskRates> MeasureDisk(const std::string& directory, int64_t size_bytes) {
  size_bytes = std::max(kPieceBytes, size_bytes / kPieceBytes * kPieceBytes);
  std::string path = absl::StrCat(directory, "/.keepstep-bench-XXXXXX");
  DiskRates rates{.direct = true};
  UniqueFd file(mkostemp(path.data(), O_CLOEXEC | O_DIRECT));
  if (!file.valid() && errno == EINVAL) {
    rates.direct = false;
    file = UniqueFd(mkostemp(path.data(), O_CLOEXEC));
  }
  if (!file.valid()) return Errno(path);
  unlink(path.c_str());  // gone however this ends
  double begin = Seconds();
  int error = Pieces(size_bytes,
                     [&](char* memory, int64_t at) { return pwrite(file.get(), memory, kPieceBytes, at); });
  if (error == 0 && fdatasync(file.get()) != 0) error = errno;
  rates.write = static_cast<double>(size_bytes) / (Seconds() - begin);
  begin = Seconds();
  if (error == 0)
    error = Pieces(size_bytes,
                   [&](char* memory, int64_t at) { return pread(file.get(), memory, kPieceBytes, at); });
  rates.read = static_cast<double>(size_bytes) / (Seconds() - begin);
  errno = error;
  if (error != 0) return Errno(path);
  return rates;
}

absl::StatusOr<double> MeasureRoundTrip(const std::string& grpc_path) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  grpc::GenericStub stub(grpc::CreateCustomChannel(absl::StrCat("unix:", grpc_path),
                                                   grpc::InsecureChannelCredentials(), arguments));
  std::vector<double> seconds;
  for (int i = 0; i < kCalls; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    const grpc::Slice nothing;  // an empty HealthCheckRequest: the whole server
    const grpc::ByteBuffer request(&nothing, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    const double begin = Seconds();
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    if (!status.ok()) return absl::UnavailableError(status.error_message());
    seconds.push_back(Seconds() - begin);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kCalls / 2, seconds.end());
  return seconds[kCalls / 2];
}

}  // namespace keepstep::client
