#include "tests/crash/point.h"

#include <cctype>
#include <charconv>

namespace keepstep::crash {
namespace {

constexpr const char* kCallNames[kCalls] = {"mkdir", "create", "reserve", "write",  "truncate",
                                            "sync",  "close",  "link",    "rename", "unlink",
                                            "send",  "open",   "read",    "stat",   "list"};
constexpr const char* kTargetNames[kTargets] = {
    "none",   "blob",   "part",    "DECISION",    "DELETING",      "pin",          "CLAIM",
    "LATEST", "PARENT", "unnamed", "attempt/",    "step/",         "epoch/",       "epochs/",
    "pins/",  "job/",   "spool",   "catalog-log", "catalog-table", "catalog-file", "client"};

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}
bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}
bool AllDigits(std::string_view text) {
  for (const char c : text) {
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) return false;
  }
  return !text.empty();
}

bool IsAttempt(std::string_view leaf) {
  return leaf.size() > 19 && leaf[0] == 'e' && leaf[leaf.size() - 17] == '-' &&
         leaf.find("-a") != std::string_view::npos;
}

Target CatalogTarget(std::string_view leaf) {
  if (EndsWith(leaf, ".log")) return Target::kCatalogLog;
  if (EndsWith(leaf, ".sst")) return Target::kCatalogTable;
  // What RocksDB tells its operators is nothing that it needs.
  return StartsWith(leaf, "LOG") ? Target::kNone : Target::kCatalogFile;
}

}  // namespace

Target TargetOf(std::string_view path) {
  constexpr std::string_view kDeleted = " (deleted)";  // as the kernel shows a file without a name
  if (EndsWith(path, kDeleted)) path.remove_suffix(kDeleted.size());
  if (EndsWith(path, "/.")) path.remove_suffix(2);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return Target::kNone;
  const std::string_view leaf = path.substr(slash + 1);
  const std::string_view above = path.substr(0, slash);
  if (EndsWith(above, "/catalog")) return CatalogTarget(leaf);
  if (leaf == "catalog") return Target::kCatalogFile;
  if (StartsWith(leaf, "spool-")) return Target::kSpool;
  if (StartsWith(leaf, ".keepstep-tmp-") || StartsWith(leaf, "#")) return Target::kUnnamed;
  if (EndsWith(leaf, ".safetensors")) return Target::kBlob;
  if (StartsWith(leaf, "part-") && EndsWith(leaf, ".pb")) return Target::kPart;
  if (leaf == "DECISION") return Target::kDecision;
  if (leaf == "DELETING") return Target::kDeleting;
  if (leaf == "CLAIM") return Target::kClaim;
  if (leaf == "LATEST") return Target::kLatest;
  if (leaf == "PARENT") return Target::kParent;
  if (leaf == "epochs") return Target::kEpochsDir;
  if (leaf == "pins") return Target::kPinsDir;
  if (EndsWith(above, "/pins")) return Target::kPin;
  if (EndsWith(above, "/epochs") && AllDigits(leaf)) return Target::kEpochDir;
  if (IsAttempt(leaf)) return Target::kAttemptDir;
  if (leaf.size() == 12 && AllDigits(leaf)) return Target::kStepDir;
  return StartsWith(leaf, "job") ? Target::kJobDir : Target::kNone;
}

int PointNumber(Call call, Target target, bool after) {
  return (static_cast<int>(call) * kTargets + static_cast<int>(target)) * 2 + (after ? 1 : 0);
}

std::string PointName(int number) {
  std::string name = kCallNames[number / 2 / kTargets];
  name += ' ';
  name += kTargetNames[number / 2 % kTargets];
  name += number % 2 == 0 ? " before" : " after";
  return name;
}

std::optional<int> FindPoint(std::string_view text) {
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) {
    return number >= 0 && number < kPoints ? std::optional<int>(number) : std::nullopt;
  }
  for (number = 0; number < kPoints; ++number) {
    if (PointName(number) == text) return number;
  }
  return std::nullopt;
}

}  // namespace keepstep::crash
