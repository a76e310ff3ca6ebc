#include "client/copy_thread.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "client/thread.h"

namespace keepstep::client {
namespace {

// Below this a thread costs more than it saves.
constexpr uint64_t kBytesPerThread = 4 << 20;

uint64_t TotalBytes(const CopyRequest& request) {
  uint64_t total = 0;
  for (const proto::CopyEntry& entry : request.entries) total += entry.size_bytes;
  return total;
}

void CopyPiece(const proto::CopyEntry& entry, uint64_t offset_bytes, uint64_t size_bytes, bool into_client,
               std::byte* window) {
  auto* memory = reinterpret_cast<std::byte*>(entry.address) + offset_bytes;
  std::byte* shared = window + entry.window_offset_bytes + offset_bytes;
  std::memcpy(into_client ? memory : shared, into_client ? shared : memory, size_bytes);
}

// Copies bytes [begin, end) of the request's entries laid end to end.
void CopyShare(const CopyRequest& request, uint64_t begin, uint64_t end, std::byte* window) {
  uint64_t at = 0;
  for (const proto::CopyEntry& entry : request.entries) {
    const uint64_t from = std::max(begin, at), to = std::min(end, at + entry.size_bytes);
    if (from < to) CopyPiece(entry, from - at, to - from, request.head.into_client != 0, window);
    at += entry.size_bytes;
  }
}

}  // namespace

int CheckCopy(const CopyRequest& request, const BufferTable& buffers, uint64_t window_bytes) {
  if (request.head.into_client != 0 && !buffers.MayWrite()) return EACCES;
  for (const proto::CopyEntry& entry : request.entries) {
    if (entry.window_offset_bytes > window_bytes) return EFAULT;
    if (entry.size_bytes > window_bytes - entry.window_offset_bytes) return EFAULT;
    if (!buffers.Contains(entry.address, entry.size_bytes)) return EFAULT;
  }
  return 0;
}

void RunCopy(const CopyRequest& request, std::byte* window, int threads) {
  const uint64_t total_bytes = TotalBytes(request);
  const uint64_t shares = std::clamp<uint64_t>(total_bytes / kBytesPerThread, 1, std::max(threads, 1));
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < shares; ++i) {
    const uint64_t begin = total_bytes / shares * i;
    const uint64_t end = i + 1 == shares ? total_bytes : total_bytes / shares * (i + 1);
    helpers.push_back(
        StartThread("ks-copy", [&request, begin, end, window] { CopyShare(request, begin, end, window); }));
  }
  CopyShare(request, 0, shares == 1 ? total_bytes : total_bytes / shares, window);
  for (std::thread& helper : helpers) helper.join();
}

CopyThread::CopyThread(std::shared_ptr<HandoffClient> handoff, BufferTable* buffers, Devices* devices,
                       int threads, std::function<void()> before_copy)
    : handoff_(std::move(handoff)),
      buffers_(buffers),
      devices_(devices),
      threads_(threads),
      before_copy_(std::move(before_copy)) {
  thread_ = StartThread("ks-copy", [this] { Run(); });
}

CopyThread::~CopyThread() {
  handoff_->Shutdown();
  thread_.join();
}

void CopyThread::Run() {
  while (true) {
    auto request = handoff_->ReadCopy();
    if (absl::IsUnavailable(request.status())) break;
    if (!request.ok()) continue;
    int error = CheckCopy(*request, *buffers_, handoff_->window_bytes());
    const uint64_t id = request->head.id;
    if (error == 0 && request->head.into_client == 0) before_copy_();
    if (error == 0) error = Carry(*std::move(request));
    handoff_->SendCopyDone(id, error);
  }
  devices_->ForgetWindow();
}

// A checked request. Returns 0 or an errno.
int CopyThread::Carry(CopyRequest request) {
  const BufferTable::Allocations allocations = buffers_->allocations();
  std::vector<proto::CopyEntry> on_device;
  if (!allocations->empty()) {
    const auto first = std::stable_partition(
        request.entries.begin(), request.entries.end(),
        [&](const proto::CopyEntry& entry) { return AllocationAt(*allocations, entry.address) == nullptr; });
    on_device.assign(first, request.entries.end());
    request.entries.erase(first, request.entries.end());
  }
  if (on_device.empty()) {
    RunCopy(request, handoff_->window(), threads_);
    return 0;
  }
  std::thread host;
  if (!request.entries.empty())
    host = StartThread("ks-copy", [&] { RunCopy(request, handoff_->window(), threads_); });
  const int error = devices_->Copy(on_device, *allocations, request.head.into_client != 0, handoff_->window(),
                                   handoff_->window_bytes());
  if (host.joinable()) host.join();
  return error;
}

}  // namespace keepstep::client
