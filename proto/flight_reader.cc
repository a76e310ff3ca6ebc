#include "proto/flight_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace keepstep::proto {
namespace {

absl::Status ReadAt(int fd, int64_t offset_bytes, void* into, size_t size_bytes) {
  auto* at = static_cast<char*>(into);
  while (size_bytes > 0) {
    const ssize_t got = pread(fd, at, size_bytes, offset_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::UnavailableError(absl::StrCat("reading a flight record: ", strerror(errno)));
    at += got;
    offset_bytes += got;
    size_bytes -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

// False: the slot is not whole. `slot` is as it was read first: what follows is checked against its checksum.
absl::StatusOr<bool> ReadSlot(int fd, int index, FlightNote* note) {
  const int64_t begin = FlightSlotOffset(index);
  FlightSlot& slot = note->slot;
  if (absl::Status status = ReadAt(fd, begin, &slot, sizeof(slot)); !status.ok()) return status;
  const uint64_t room = kFlightSlotBytes - sizeof(slot);
  if (slot.sequence == 0 || slot.host_bytes > room || slot.request_bytes > room ||
      slot.entry_count > room / sizeof(FlightEntry)) {
    return false;
  }
  const uint64_t entry_bytes = slot.entry_count * sizeof(FlightEntry);
  const uint64_t payload_bytes = slot.request_bytes + entry_bytes + slot.host_bytes;
  if (payload_bytes > room) return false;
  constexpr size_t kHead = sizeof(FlightSlot) - sizeof(slot.checksum);
  std::string covered(kHead + payload_bytes, '\0');
  std::memcpy(covered.data(), &slot.sequence, kHead);
  if (absl::Status status = ReadAt(fd, begin + static_cast<int64_t>(sizeof(slot)), covered.data() + kHead, payload_bytes);
      !status.ok())
    return status;
  if (FlightChecksum(covered) != slot.checksum) return false;
  note->request = covered.substr(kHead, slot.request_bytes);
  note->entries.resize(slot.entry_count);
  if (entry_bytes > 0) std::memcpy(note->entries.data(), covered.data() + kHead + slot.request_bytes, entry_bytes);
  uint64_t left_bytes = slot.host_bytes;
  for (const FlightEntry& entry : note->entries) {
    if (entry.size_bytes > left_bytes) return false;
    left_bytes -= entry.size_bytes;
  }
  note->host = covered.substr(kHead + slot.request_bytes + entry_bytes);
  return left_bytes == 0;
}

}  // namespace

absl::Status CheckFlightRecord(int fd) {
  constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW;
  struct stat info {};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSealed) != kSealed || fstat(fd, &info) != 0 || info.st_size != kFlightRecordBytes) {
    return absl::InvalidArgumentError(
        "A flight record is a memory file of its own size, sealed against shrinking and growing.");
  }
  return absl::OkStatus();
}

absl::StatusOr<FlightWords> ReadFlightWords(int fd) {
  FlightWords words;
  if (absl::Status status = ReadAt(fd, kFlightWordsOffset, &words, sizeof(words)); !status.ok()) return status;
  return words;
}

absl::StatusOr<FlightRecord> ReadFlightRecord(int fd) {
  struct {
    uint32_t magic, version, state;
    char why_not[sizeof(FlightHead::why_not)];
  } head{};
  static_assert(sizeof(head) == sizeof(FlightHead));
  if (absl::Status status = ReadAt(fd, 0, &head, sizeof(head)); !status.ok()) return status;
  if (head.magic != kFlightMagic || head.version != kFlightVersion ||
      head.state > static_cast<uint32_t>(FlightState::kRefused)) {
    return absl::InvalidArgumentError("it left a flight record of another version, or none");
  }
  FlightRecord record{.state = static_cast<FlightState>(head.state)};
  record.why_not.assign(head.why_not, strnlen(head.why_not, sizeof(head.why_not)));
  auto words = ReadFlightWords(fd);
  if (!words.ok()) return words.status();
  record.words = *words;
  for (int i = 0; i < kFlightSlots; ++i) {
    FlightNote note;
    const auto whole = ReadSlot(fd, i, &note);
    if (!whole.ok()) return whole.status();
    if (*whole) record.notes.push_back(std::move(note));
  }
  std::sort(record.notes.begin(), record.notes.end(), [](const FlightNote& a, const FlightNote& b) {
    return a.slot.sequence > b.slot.sequence;
  });
  return record;
}

const FlightNote* WholeNote(const FlightRecord& record, uint64_t generation, std::string* why) {
  if (record.state == FlightState::kRefused) {
    *why = record.why_not;
    return nullptr;
  }
  const FlightWords& words = record.words;
  for (int group = 0; group < kMaxGroups; ++group) {
    if (words.begun[group] == words.done[group]) continue;
    *why = absl::StrCat("an update of group ", group, " was half run");
    return nullptr;
  }
  if (record.state == FlightState::kIdle || record.notes.empty()) {
    *why = "it had noted no step";
    return nullptr;
  }
  *why = "it had noted no step since it registered";
  for (const FlightNote& note : record.notes) {
    if (note.slot.generation != generation) continue;
    const auto* const differs = std::mismatch(words.done, words.done + kMaxGroups, note.slot.expected).first;
    if (differs == words.done + kMaxGroups) return &note;
    const auto group = differs - words.done;
    if (&note != &record.notes.front()) continue;  // the newer note's reason says more
    *why = absl::StrCat("group ", group, " had done ", *differs, " updates, its note of step ", note.slot.step, " is of ",
                        note.slot.expected[group]);
  }
  return nullptr;
}

bool SameWords(const FlightWords& now, const FlightWords& before) {
  return std::memcmp(&now, &before, sizeof(now)) == 0;
}

}  // namespace keepstep::proto
