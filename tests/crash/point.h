// What is done to storage, and to what: the names and numbers of failpoints.
//
// A point is a call on a kind of target, before or after it: "link DECISION after". Its number is its place
// in the table of all combinations, so that it stays the same from run to run.

#ifndef KEEPSTEP_TESTS_CRASH_POINT_H_
#define KEEPSTEP_TESTS_CRASH_POINT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace keepstep::crash {

enum class Call : uint8_t {
  kMkdir,
  kCreate,
  kReserve,
  kWrite,
  kTruncate,
  kSync,
  kClose,
  kLink,
  kRename,
  kUnlink,
  kSend,  // to a client: what is told, and when
  kOpen,
  kRead,
  kStat,
  kList,
};
inline constexpr int kCalls = 15;
// Those before kOpen change something.
inline constexpr bool Changes(Call call) { return call < Call::kOpen; }

enum class Target : uint8_t {
  kNone,  // nothing of Keepstep's: no point
  kBlob,
  kPart,
  kDecision,
  kDeleting,
  kPin,
  kClaim,
  kLatest,
  kParent,
  kUnnamed,  // a record that is not published yet
  kAttemptDir,
  kStepDir,
  kEpochDir,
  kEpochsDir,
  kPinsDir,
  kJobDir,  // and those above it
  kSpool,
  kCatalogLog,
  kCatalogTable,
  kCatalogFile,  // manifest, options, and what else RocksDB keeps
  kClient,
};
inline constexpr int kTargets = 21;

inline constexpr int kPoints = kCalls * kTargets * 2;

// What an absolute path names.
Target TargetOf(std::string_view path);

int PointNumber(Call call, Target target, bool after);
std::string PointName(int number);
// A number or a name.
std::optional<int> FindPoint(std::string_view text);

}  // namespace keepstep::crash

#endif  // KEEPSTEP_TESTS_CRASH_POINT_H_
