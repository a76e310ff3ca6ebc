// The two pages that a session shares with its daemon: the gate, the seal and the signs of life, without
// RPCs.
//
// DaemonPage is written by the daemon alone: its memfd carries F_SEAL_FUTURE_WRITE, so clients can only map
// it to read. ClientPage is written by the client alone; the daemon believes nothing in it beyond this
// session's own saves. Words are lock-free atomics; a writer stores the data words, then adds one to
// `changes` and wakes its futex: those who wait for an answer, and those who wait for the rest, by two bits,
// so that a save's answer wakes its caller alone.
//
// The gate (client): before_update(g) may return when released[g] >= the client's private count of saves
// issued. The seal (both):   verdict slots change once per save, OPEN → SEALED by the client's sealing thread
// when every group
//                    is released and compared, or OPEN → POISONED by its watchdog before that opens a gate on
//                    its own.

#ifndef KEEPSTEP_PROTO_SESSION_PAGE_H_
#define KEEPSTEP_PROTO_SESSION_PAGE_H_

#include <atomic>
#include <cstdint>

namespace keepstep::proto {

inline constexpr uint32_t kPageMagic = 0x4750534b;  // "KSPG"
inline constexpr uint32_t kPageVersion = 1;
inline constexpr int kMaxGroups = 256;
inline constexpr int kSaveSlots = 16;  // save n uses slot n % kSaveSlots; at most two are in flight
inline constexpr int64_t kNoSaveAt = -1;
inline constexpr int64_t kHeartbeatPeriodMs = 1000;

// Of FUTEX_WAIT_BITSET and FUTEX_WAKE_BITSET on `changes`.
inline constexpr uint32_t kAnswerBit = 1, kReleaseBit = 2, kAllBits = 3;

enum class Verdict : uint8_t { kNone = 0, kOpen = 1, kSealed = 2, kPoisoned = 3 };

// Beyond it a number would not fit its word.
inline constexpr uint64_t kMaxSaveNumber = (uint64_t{1} << 48) - 1;

// A save's number and a small value in one word, so that both change at once.
constexpr uint64_t PackSlot(uint64_t number, uint8_t value) { return number << 8 | value; }
constexpr uint64_t SlotNumber(uint64_t slot) { return slot >> 8; }
constexpr uint8_t SlotValue(uint64_t slot) { return slot & 0xff; }

struct DaemonPage {
  uint32_t magic = kPageMagic;
  uint32_t version = kPageVersion;
  std::atomic<uint32_t> changes{0};  // futex
  uint32_t reserved = 0;
  std::atomic<uint64_t> heartbeat_ns{0};          // CLOCK_MONOTONIC, every kHeartbeatPeriodMs
  std::atomic<uint64_t> progress_bytes{0};        // grows while the daemon copies for this session
  std::atomic<int64_t> save_at{kNoSaveAt};        // step at which every rank saves on request
  std::atomic<uint64_t> states[kSaveSlots] = {};  // PackSlot(number, v1::SaveState); 0: an ask not taken
  // Newest save for which the group may change again. Saves are numbered from 1; never falls while the
  // session lives.
  std::atomic<uint64_t> released[kMaxGroups] = {};
};

struct ClientPage {
  uint32_t magic = kPageMagic;
  uint32_t version = kPageVersion;
  std::atomic<uint64_t> verdicts[kSaveSlots] = {};  // PackSlot(number, Verdict)
  std::atomic<int64_t> step_stored{-1};             // newest step that should_save has seen
  std::atomic<uint64_t> update_sequence{0};         // odd while an update runs
  std::atomic<uint32_t> wishes_save{0};             // 1: this rank asks for a save at a step of all ranks
};

inline constexpr int64_t kPageBytes = 4096;
static_assert(sizeof(DaemonPage) <= kPageBytes && sizeof(ClientPage) <= kPageBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

}  // namespace keepstep::proto

#endif  // KEEPSTEP_PROTO_SESSION_PAGE_H_
