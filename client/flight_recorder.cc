#include "client/flight_recorder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

constexpr int kSeveralGpus = -1;

uint32_t Written(uint32_t& word) { return std::atomic_ref<uint32_t>(word).load(std::memory_order_acquire); }

size_t BegunAt(uint32_t group) { return offsetof(proto::FlightWords, begun) + group * sizeof(uint32_t); }
size_t DoneAt(uint32_t group) { return offsetof(proto::FlightWords, done) + group * sizeof(uint32_t); }

// The GPU of each group with GPU memory, or kSeveralGpus.
std::map<uint32_t, int> GpusOf(const Declared& declared) {
  std::map<uint32_t, int> gpus;
  for (const v1::Shard& shard : declared.shards) {
    const v1::Buffer& buffer = declared.buffers[shard.buffer_id()];
    if (!buffer.has_device()) continue;
    const Allocation* const in = AllocationAt(declared.allocations, buffer.device().address());
    if (in == nullptr) continue;  // an empty tensor
    const auto [known, added] = gpus.emplace(shard.group(), in->device);
    if (!added && known->second != in->device) known->second = kSeveralGpus;
  }
  return gpus;
}

void KeepForGood(Mapping memory) {
  static std::mutex& mu = *new std::mutex;
  static std::vector<Mapping>& kept = *new std::vector<Mapping>;
  std::lock_guard lock(mu);
  kept.push_back(std::move(memory));
}

}  // namespace

absl::StatusOr<std::unique_ptr<FlightRecorder>> FlightRecorder::Make(Devices* devices) {
  UniqueFd fd(memfd_create("keepstep-flight-record", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ftruncate(fd.get(), proto::kFlightRecordBytes) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return MakeError(absl::StatusCode::kResourceExhausted, "NO_MEMORY",
                     absl::StrCat("no memory for a flight record: ", strerror(errno)), "open");
  }
  auto memory = Mapping::Map(fd.get(), proto::kFlightRecordBytes, true);
  if (!memory.ok()) return memory.status();
  // A fork trains nothing of this record; and none of its pages are copied.
  (void)madvise(memory->data(), memory->size(), MADV_DONTFORK);
  return std::unique_ptr<FlightRecorder>(new FlightRecorder(std::move(fd), *std::move(memory), devices));
}

FlightRecorder::FlightRecorder(UniqueFd fd, Mapping memory, Devices* devices)
    : fd_(std::move(fd)), memory_(std::move(memory)), devices_(devices) {
  new (&head()) proto::FlightHead();
  new (&words()) proto::FlightWords();
}

// A stream may still have a word to write: then the page stays, pinned, for the process's life.
FlightRecorder::~FlightRecorder() {
  if (AllWritten()) {
    devices_->UnpinFlightWords();
  } else {
    KeepForGood(std::move(memory_));
  }
}

bool FlightRecorder::AllWritten() const {
  for (const auto& [group, update] : updates_) {
    if (Written(words().begun[group]) != update.begun || Written(words().done[group]) != update.done) return false;
  }
  return true;
}

void FlightRecorder::Registered(const Declared& declared, uint64_t generation, bool by_window,
                                absl::string_view refusal) {
  std::lock_guard lock(mu_);
  registered_ = true;
  generation_ = generation;
  step_ = -1;
  host_.clear();
  host_bytes_ = 0;
  for (const v1::Buffer& buffer : declared.buffers) {
    if (!buffer.has_host() || buffer.host().size_bytes() == 0) continue;
    const auto size_bytes = static_cast<uint64_t>(buffer.host().size_bytes());
    host_.push_back({buffer.host().address(), size_bytes});
    host_bytes_ += size_bytes;
  }
  gpus_ = GpusOf(declared);
  refusal_.clear();
  head().state = proto::FlightState::kIdle;
  if (!refused_for_good_.empty()) return Refuse(refused_for_good_);
  if (by_window) return Refuse("some of its GPU memory goes by the window, which dies with it");
  for (const auto& [group, gpu] : gpus_) {
    if (gpu == kSeveralGpus)
      return Refuse(absl::StrCat("group ", group, " lies on several GPUs: no stream orders its updates"));
  }
  if (host_bytes_ > static_cast<uint64_t>(proto::kMaxFlightHostBytes)) {
    return Refuse(absl::StrCat(host_bytes_, " bytes of host memory are registered; a flight record takes ",
                               proto::kMaxFlightHostBytes));
  }
  if (!refusal.empty()) Refuse(std::string(refusal));
}

void FlightRecorder::Refuse(const std::string& why) {
  if (!refusal_.empty()) return;
  refusal_ = why;
  std::strncpy(head().why_not, why.c_str(), sizeof(head().why_not) - 1);
  head().state = proto::FlightState::kRefused;
  std::fprintf(stderr, "keepstep: crash flush is off: %s\n", why.c_str());
}

void FlightRecorder::RefuseForGood(const std::string& why) {
  if (refused_for_good_.empty()) refused_for_good_ = why;
  Refuse(why);
}

void FlightRecorder::Begin(uint32_t group, void* stream) {
  std::lock_guard lock(mu_);
  const auto gpu = gpus_.find(group);
  if (gpu == gpus_.end() || gpu->second == kSeveralGpus || !refused_for_good_.empty()) return;
  Update& update = updates_[group];
  update.device = gpu->second;
  const absl::Status status =
      devices_->WriteFlightWord(stream, update.device, &words(), BegunAt(group), update.begun + 1);
  if (!status.ok()) return RefuseForGood(std::string(status.message()));
  ++update.begun;
}

absl::Status FlightRecorder::Done(uint32_t group, void* stream) {
  if (group >= proto::kMaxGroups) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_GROUP",
                     absl::StrCat("group ", group, " is not below ", proto::kMaxGroups));
  }
  std::lock_guard lock(mu_);
  if (!gpus_.contains(group) || gpus_[group] == kSeveralGpus || !refused_for_good_.empty()) return absl::OkStatus();
  Update& update = updates_[group];
  if (update.begun == update.done) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_UPDATE",
                     absl::StrCat("no update of group ", group,
                                  " has begun: call ks_before_update_on before what ks_after_update_on ends"));
  }
  const absl::Status status =
      devices_->WriteFlightWord(stream, update.device, &words(), DoneAt(group), update.begun);
  if (!status.ok()) {
    RefuseForGood(std::string(status.message()));
    return absl::OkStatus();
  }
  update.done = update.begun;
  return absl::OkStatus();
}

void FlightRecorder::Unordered(uint32_t group) {
  std::lock_guard lock(mu_);
  if (!gpus_.contains(group)) return;
  RefuseForGood(absl::StrCat("group ", group, " is updated without a stream that says when"));
}

// A loop that updates without saying so would have every step look whole.
bool FlightRecorder::NothingAnnounced(int64_t step) const {
  if (gpus_.empty() || step_ < 0 || step <= step_) return false;
  for (const auto& [group, update] : updates_) {
    const auto before = noted_.find(group);
    if (before == noted_.end() || before->second != update.begun) return false;
  }
  return true;
}

absl::Status FlightRecorder::Note(v1::SaveRequest request) {
  std::lock_guard lock(mu_);
  if (!registered_) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOTHING_REGISTERED",
                     "register tensors before noting a step of them");
  }
  if (!refusal_.empty()) return absl::OkStatus();
  if (NothingAnnounced(request.step())) {
    RefuseForGood(absl::StrCat("no update was announced between steps ", step_, " and ", request.step()));
    return absl::OkStatus();
  }
  request.clear_number();
  request.clear_fences();
  request.set_generation(generation_);
  if (!WriteSlot(request)) {
    Refuse("what is registered does not fit the flight record");
    return absl::OkStatus();
  }
  step_ = request.step();
  noted_.clear();
  for (const auto& [group, update] : updates_) noted_[group] = update.begun;
  head().state = proto::FlightState::kRecording;
  return absl::OkStatus();
}

bool FlightRecorder::WriteSlot(const v1::SaveRequest& request) {
  const std::string encoded = request.SerializeAsString();
  const uint64_t size_bytes =
      sizeof(proto::FlightSlot) + encoded.size() + host_.size() * sizeof(proto::FlightEntry) + host_bytes_;
  if (size_bytes > static_cast<uint64_t>(proto::kFlightSlotBytes)) return false;
  std::byte* const begin = memory_.data() + proto::FlightSlotOffset(static_cast<int>(++sequence_ % proto::kFlightSlots));
  auto* const slot = reinterpret_cast<proto::FlightSlot*>(begin);
  *slot = proto::FlightSlot{.sequence = sequence_,
                            .step = request.step(),
                            .generation = generation_,
                            .host_bytes = host_bytes_,
                            .request_bytes = static_cast<uint32_t>(encoded.size()),
                            .entry_count = static_cast<uint32_t>(host_.size())};
  for (const auto& [group, update] : updates_) slot->expected[group] = update.begun;
  std::byte* at = begin + sizeof(proto::FlightSlot);
  const auto append = [&at](const void* bytes, size_t count) {
    std::memcpy(at, bytes, count);
    at += count;
  };
  append(encoded.data(), encoded.size());
  for (const MemoryRange& range : host_) {
    const proto::FlightEntry entry{range.address, range.size_bytes};
    append(&entry, sizeof(entry));
  }
  for (const MemoryRange& range : host_) append(reinterpret_cast<const void*>(range.address), range.size_bytes);
  const auto* const covered = reinterpret_cast<const char*>(&slot->sequence);
  slot->checksum = proto::FlightChecksum({covered, size_bytes - offsetof(proto::FlightSlot, sequence)});
  return true;
}

void FlightRecorder::Forget() {
  std::lock_guard lock(mu_);
  step_ = -1;
  for (int i = 0; i < proto::kFlightSlots; ++i)
    std::memset(memory_.data() + proto::FlightSlotOffset(i), 0, sizeof(proto::FlightSlot));
  if (refusal_.empty()) head().state = proto::FlightState::kIdle;
}

FlightRecorder::Info FlightRecorder::info() const {
  std::lock_guard lock(mu_);
  return {.on = registered_ && refusal_.empty(), .step = step_, .why_not = refusal_};
}

}  // namespace keepstep::client
