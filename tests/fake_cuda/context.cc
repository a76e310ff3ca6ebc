#include "tests/fake_cuda/context.h"

#include <map>
#include <utility>

namespace keepstep::fake_cuda {
namespace {

// Ends with its thread.
struct OwnStream {
  std::shared_ptr<Stream> stream;
  int generation = 0;

  ~OwnStream() {
    if (stream) stream->Close();
  }
};

}  // namespace

Context::Context(int ordinal, const DeviceOptions& options, int device_number)
    : host_to_device(options.host_to_device_gbps, options.copy_us),
      device_to_host(options.device_to_host_gbps, options.copy_us),
      device_to_device(options.device_to_device_gbps, options.copy_us),
      ordinal_(ordinal),
      options_(options),
      device_number_(device_number) {}

std::shared_ptr<Stream> Context::NewStream(bool blocking) {
  auto stream = std::make_shared<Stream>(sticky_, blocking);
  std::lock_guard lock(mutex_);
  made_.insert(stream);
  return stream;
}

std::shared_ptr<Stream> Context::LegacyStream() {
  std::lock_guard lock(mutex_);
  if (!legacy_) legacy_ = std::make_shared<Stream>(sticky_, false);
  return legacy_;
}

std::shared_ptr<Stream> Context::ThreadStream() {
  thread_local std::map<Context*, OwnStream> own;
  OwnStream& mine = own[this];
  if (!mine.stream || mine.generation != generation_) {
    mine.generation = generation_;
    mine.stream = std::make_shared<Stream>(sticky_, true);
    std::lock_guard lock(mutex_);
    std::erase_if(of_threads_, [](const auto& stream) { return stream.expired(); });
    of_threads_.push_back(mine.stream);
  }
  return mine.stream;
}

std::vector<std::shared_ptr<Stream>> Context::AllStreams() {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Stream>> all(made_.begin(), made_.end());
  if (legacy_) all.push_back(legacy_);
  for (const std::weak_ptr<Stream>& weak : of_threads_) {
    if (std::shared_ptr<Stream> stream = weak.lock()) all.push_back(stream);
  }
  return all;
}

uint64_t Context::Enqueue(Stream& stream, Stream::Operation operation) {
  const std::shared_ptr<Stream> legacy = LegacyStream();
  const bool is_legacy = &stream == legacy.get();
  std::lock_guard lock(order_mutex_);
  std::vector<std::pair<std::shared_ptr<Stream>, uint64_t>> first;
  if (is_legacy || stream.blocking()) {
    for (std::shared_ptr<Stream>& other : AllStreams()) {
      const bool ordered = is_legacy ? other->blocking() : other == legacy;
      const uint64_t ticket = other->queued();
      if (ordered && !other->Through(ticket)) first.emplace_back(std::move(other), ticket);
    }
  }
  if (first.empty()) return stream.Enqueue(std::move(operation));
  return stream.Enqueue([first = std::move(first), operation = std::move(operation)](Time ready) {
    for (const auto& [other, ticket] : first) other->Wait(ticket);
    return operation(std::max(ready, std::chrono::steady_clock::now()));
  });
}

bool Context::CloseStream(const Stream* stream) {
  std::lock_guard lock(mutex_);
  for (auto found = made_.begin(); found != made_.end(); ++found) {
    if (found->get() != stream) continue;
    (*found)->Close();
    made_.erase(found);
    return true;
  }
  return false;
}

void Context::Synchronize() {
  for (const std::shared_ptr<Stream>& stream : AllStreams()) stream->Wait(stream->queued());
}

int Context::CloseAll() {
  for (const std::shared_ptr<Stream>& stream : AllStreams()) stream->Close();
  std::lock_guard lock(mutex_);
  const int made = static_cast<int>(made_.size());
  made_.clear();
  of_threads_.clear();
  legacy_ = nullptr;
  ++generation_;
  return made;
}

}  // namespace keepstep::fake_cuda
