#include "tests/sim/checker.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace keepstep::sim {

using daemon::SaveState;

namespace {

constexpr int kContentWords = 40;

std::string StepDir(int64_t step) {
  char text[32];
  std::snprintf(text, sizeof text, "%012lld", static_cast<long long>(step));
  return text;
}

// Only the frame's length is looked at: docs/formats.md.
template <class Message>
bool ParseFramed(const std::string& bytes, Message& message) {
  constexpr size_t kHead = 20, kTail = 16;
  return bytes.size() >= kHead + kTail && std::memcmp(bytes.data(), "KSREC", 6) == 0 &&
         message.ParseFromArray(bytes.data() + kHead, static_cast<int>(bytes.size() - kHead - kTail));
}

// Null if it cannot be parsed.
template <class Records>
const typename Records::mapped_type::value_type* ParsedOnce(const std::string& bytes, Records& records) {
  const auto [record, is_new] = records.try_emplace(bytes);
  if (is_new && !ParseFramed(bytes, record->second.emplace())) record->second.reset();
  return record->second ? &*record->second : nullptr;
}

using Words = std::array<uint64_t, kContentWords>;

Words ContentWords(int64_t step, int32_t rank, int group) {
  Words words;
  uint64_t word =
      Mix(static_cast<uint64_t>(step) * 1'000'003 + static_cast<uint64_t>(rank) * 101 + group + 1);
  for (uint64_t& each : words) each = word = word * 6364136223846793005 + 1442695040888963407;
  return words;
}

// Whether `bytes` are the groups of `rank` after `step` updates, and nothing else.
bool HoldsContent(const std::string& bytes, int64_t step, int32_t rank) {
  if (bytes.size() != kGroups * sizeof(Words)) return false;
  for (int group = 0; group < kGroups; ++group) {
    const Words words = ContentWords(step, rank, group);
    if (std::memcmp(bytes.data() + group * sizeof words, words.data(), sizeof words) != 0) return false;
  }
  return true;
}

int64_t EpochOf(const std::string& attempt) { return std::atoll(attempt.c_str() + 1); }
int64_t CounterOf(const std::string& attempt) { return std::atoll(attempt.c_str() + attempt.find("-a") + 2); }

}  // namespace

std::string Content(int64_t step, int32_t rank, int group) {
  const Words words = ContentWords(step, rank, group);
  return std::string(reinterpret_cast<const char*>(words.data()), sizeof words);
}

void Checker::Note(int64_t& count, const std::string& what) {
  ++count;
  if (findings_.first.size() < 5) findings_.first.push_back(what);
}

const v1::Decision* Checker::ReadDecision(int64_t step, const std::string& attempt, bool durable) const {
  const std::string* bytes = store_.Read(absl::StrCat(StepDir(step), "/", attempt, "/DECISION"), durable);
  return bytes == nullptr ? nullptr : ParsedOnce(*bytes, decisions_);
}

std::string Checker::Restorable(int64_t step, const std::string& attempt, bool durable) const {
  const v1::Decision* decision = ReadDecision(step, attempt, durable);
  if (!decision || decision->kind() != v1::Decision::COMMIT) return "has no COMMIT";
  if (decision->step() != step || decision->attempt() != attempt) return "has another's COMMIT";
  int32_t ranks = 0;
  const std::string dir = absl::StrCat(StepDir(step), "/", attempt, "/");
  for (const v1::PartRef& ref : decision->parts()) {
    const std::string* bytes = store_.Read(dir + ref.name(), durable);
    if (bytes == nullptr || static_cast<int64_t>(bytes->size()) != ref.size_bytes()) return "lacks a part";
    const v1::Part* part = ParsedOnce(*bytes, parts_);
    if (part == nullptr) return "lacks a part";
    for (const v1::Blob& blob : part->blobs()) {
      const std::string* content = store_.Read(dir + blob.name(), durable);
      if (content == nullptr) return absl::StrCat("lacks the blob of rank ", ranks);
      if (!HoldsContent(*content, step, ranks)) return absl::StrCat("holds other content for rank ", ranks);
      ++ranks;
    }
  }
  return ranks == decision->world_size() ? "" : "lacks ranks";
}

void Checker::OnVerdict(const daemon::Verdict& verdict) {
  if (verdict.state < SaveState::kCommitted || verdict.attempt.empty()) return;
  if (verdict.failure.reason == "DURABILITY_UNCERTAIN") uncertain_.insert(verdict.attempt);
  auto [known, first] = verdicts_.try_emplace(verdict.attempt, verdict.state, verdict.failure.reason);
  // A save whose fate was unknown may turn out committed. Of one that was given up, a restart may know only
  // that it never committed. Nothing else may change.
  const bool settled_later =
      known->second.second == "DURABILITY_UNCERTAIN" || known->second.second == "DECISION_DAMAGED" ||
      (known->second.first != SaveState::kCommitted && verdict.failure.reason == "LOST_BY_RESTART");
  if (!first && known->second.first != verdict.state && !settled_later) {
    Note(findings_.mislabelled,
         absl::StrCat(verdict.attempt, " had state ", static_cast<int>(known->second.first), ", now ",
                      static_cast<int>(verdict.state), " ", verdict.failure.reason));
  }
  if (verdict.state != SaveState::kCommitted || !reported_.emplace(verdict.step, verdict.attempt).second)
    return;
  if (condemned_.contains(verdict.attempt)) return;  // it was, and is gone
  CheckRescue(verdict.step, verdict.attempt);
  const std::string wrong = Restorable(verdict.step, verdict.attempt, true);
  if (wrong.empty()) return;
  Note(absl::StrContains(wrong, "other content") ? findings_.mislabelled : findings_.lost,
       absl::StrCat(verdict.step, "/", verdict.attempt, " was reported COMMITTED but ", wrong));
}

// When it is first reported.
void Checker::CheckRescue(int64_t step, const std::string& attempt) {
  const v1::Decision* decision = ReadDecision(step, attempt, true);
  const bool rescue = rescues_.contains(attempt);
  if (decision != nullptr && decision->rescue() != rescue)
    Note(findings_.mislabelled,
         absl::StrCat(step, "/", attempt, rescue ? " is" : " is not", " a rescue, and says otherwise"));
  if (!rescue) return;
  for (const auto& [asked, answer] : restored_) {
    const auto& [epoch, asked_step] = asked;
    if (asked_step != -1 || epoch <= EpochOf(attempt)) continue;
    const auto& [found, restored_step, restored] = answer;
    if (std::pair(found ? EpochOf(restored) : 0, found ? restored_step : -1) < std::pair(EpochOf(attempt), step)) {
      Note(findings_.lost, absl::StrCat("epoch ", epoch, " had gone on from step ", restored_step,
                                        " before the rescue ", step, "/", attempt, " was there"));
    }
  }
}

int64_t Checker::rescues() const {
  return std::count_if(reported_.begin(), reported_.end(),
                       [this](const auto& commit) { return rescues_.contains(commit.second); });
}

void Checker::OnLoaded(const daemon::AnswerLoad& answer, bool latest) {
  if (answer.failure.code != absl::StatusCode::kOk) return;
  const auto what = std::tuple(answer.found, answer.step, answer.attempt);
  auto [known, first] = restored_.try_emplace(std::pair(answer.epoch, latest ? -1 : answer.step), what);
  if (known->second != what) {
    Note(findings_.mislabelled, absl::StrCat("ranks of epoch ", answer.epoch, " restore steps ",
                                             std::get<1>(known->second), " and ", answer.step));
  }
  if (answer.found && !condemned_.contains(answer.attempt)) {  // OnCondemn looks at loads that go on
    const std::string wrong = Restorable(answer.step, answer.attempt, true);
    if (!wrong.empty())
      Note(findings_.lost, absl::StrCat(answer.step, "/", answer.attempt, " is restored but ", wrong));
  }
  if (!latest) return;
  const std::string* bytes = store_.Read(absl::StrCat("epochs/", answer.epoch, "/LATEST"), true);
  v1::EpochStep record;
  if (bytes == nullptr || !ParseFramed(*bytes, record) || record.attempt() != answer.attempt) {
    Note(findings_.broken,
         absl::StrCat("\"latest\" of epoch ", answer.epoch, " was told before it was durable"));
  }
  CheckNotBehind(answer);
}

void Checker::CheckNotBehind(const daemon::AnswerLoad& answer) {
  std::pair<int64_t, int64_t> newest{0, -1};  // epoch, step
  for (const auto& [step, attempt] : reported_) {
    if (EpochOf(attempt) < answer.epoch) newest = std::max(newest, std::pair(EpochOf(attempt), step));
  }
  const std::pair<int64_t, int64_t> given{answer.found ? EpochOf(answer.attempt) : 0,
                                          answer.found ? answer.step : -1};
  if (given >= newest) return;
  for (int64_t epoch = newest.first + 1; epoch < answer.epoch;
       ++epoch) {  // a later epoch went back on purpose
    const std::string* bytes = store_.Read(absl::StrCat("epochs/", epoch, "/PARENT"), false);
    v1::EpochStep record;
    if (bytes && ParseFramed(*bytes, record) && record.attempt() == answer.attempt) return;
  }
  Note(findings_.lost,
       absl::StrCat("epoch ", answer.epoch, " goes on from step ", given.second, " of epoch ", given.first,
                    " although step ", newest.second, " of epoch ", newest.first, " was reported COMMITTED"));
}

void Checker::OnDelete(const std::string& path) {
  // <step>/<attempt>/<leaf>, or less for a tree.
  const size_t first = path.find('/'), second = path.find('/', first + 1);
  if (first == std::string::npos) return;
  const std::string attempt =
      path.substr(first + 1, second == std::string::npos ? second : second - first - 1);
  if (attempt.empty() || attempt[0] != 'e') return;
  const int64_t step = std::atoll(path.c_str());
  const std::string dir = absl::StrCat(StepDir(step), "/", attempt), deleting = dir + "/DELETING";
  if (path == deleting || path == dir) {
    const bool withdrawn = path == deleting && store_.Read(dir + "/DECISION", false) != nullptr;
    if (withdrawn) condemned_.erase(attempt);
    return;
  }
  if (condemned_.contains(attempt)) {
    if (store_.Read(deleting, true) == nullptr)
      Note(findings_.broken, absl::StrCat(path, " is deleted before its DELETING is durable"));
    if (pinned_.contains(attempt))
      Note(findings_.lost, absl::StrCat(path, " is deleted although its step is pinned"));
    return;
  }
  const v1::Decision* decision = ReadDecision(step, attempt, true);
  if (!decision || decision->kind() != v1::Decision::ABORT) {
    Note(findings_.broken, absl::StrCat(path, " is deleted without a durable ABORT"));
  }
}

// ---- retention
// --------------------------------------------------------------------------------------------------------

std::vector<Checker::Commit> Checker::Commits() const {
  std::vector<Commit> commits;
  for (const auto& [step, is_step] : store_.List("")) {
    if (!is_step || step == "epochs") continue;
    for (const auto& [attempt, is_attempt] : store_.List(step)) {
      if (!is_attempt || attempt[0] != 'e' || uncertain_.contains(attempt)) continue;
      const int64_t number = std::atoll(step.c_str());
      const v1::Decision* decision = ReadDecision(number, attempt, false);
      if (!decision || decision->kind() != v1::Decision::COMMIT) continue;
      if (store_.Read(absl::StrCat(step, "/", attempt, "/DELETING"), false) != nullptr) continue;
      commits.push_back({EpochOf(attempt), number, CounterOf(attempt), attempt, decision->rescue()});
    }
  }
  std::sort(commits.begin(), commits.end());
  return commits;
}

std::string Checker::Latest(const std::vector<Commit>& commits) const {
  int64_t epoch = 0;
  for (const auto& [leaf, directory] : store_.List("epochs"))
    epoch = std::max<int64_t>(epoch, std::atoll(leaf.c_str()));
  for (; epoch > 0; --epoch) {
    for (auto commit = commits.rbegin(); commit != commits.rend(); ++commit) {
      if (commit->epoch == epoch) return commit->attempt;
    }
    const std::string* bytes = store_.Read(absl::StrCat("epochs/", epoch, "/PARENT"), false);
    v1::EpochStep record;
    if (bytes == nullptr || !ParseFramed(*bytes, record)) continue;
    if (record.none()) return "";
    for (const Commit& commit : commits) {
      if (commit.attempt == record.attempt()) return commit.attempt;
    }
  }
  return "";
}

bool Checker::HasCommit(int64_t step) const {
  for (const Commit& commit : Commits()) {
    if (commit.step == step) return true;
  }
  return false;
}

std::string Checker::NewestCommit() const {
  const std::vector<Commit> commits = Commits();
  if (commits.empty()) return "none";
  return absl::StrCat(StepDir(commits.back().step), "/", commits.back().attempt);
}

int64_t Checker::SomeReportedStep(uint64_t random) const {
  if (reported_.empty()) return -1;
  return std::next(reported_.begin(), static_cast<int64_t>(random % reported_.size()))->first;
}

std::string Checker::SomeCommit(uint64_t random) const {
  const std::vector<Commit> commits = Commits();
  return commits.empty() ? "" : commits[random % commits.size()].attempt;
}

// Judged by counting what readers would still find, without the machine's plan.
void Checker::OnCondemn(const std::string& path, const std::multiset<std::string>& loading) {
  const int64_t step = std::atoll(path.c_str());
  const size_t first = path.find('/');
  const std::string attempt = path.substr(first + 1, path.rfind('/') - first - 1);
  const std::vector<Commit> commits = Commits();
  const auto self = std::find_if(commits.begin(), commits.end(), [&](const Commit& commit) {
    return commit.step == step && commit.attempt == attempt;
  });
  if (self == commits.end()) return;  // a deletion that goes on, or of what nobody sees
  const auto bad = [&](const char* why) {
    Note(findings_.lost, absl::StrCat(path, " is deleted: it is ", why));
  };
  std::set<std::pair<int64_t, int64_t>> newer;
  bool again = false, later = false;
  for (auto other = std::next(self); other != commits.end(); ++other) {
    if (other->rescue) continue;  // stands for nothing
    if (other->step == step) (other->epoch == self->epoch ? again : later) = true;
    if (other->epoch != self->epoch || other->step != step) newer.emplace(other->epoch, other->step);
  }
  daemon::RetentionPolicy policy;
  if (!policies_.empty()) policy = policies_.rbegin()->second;
  if (policy.keep_last == 0) bad("of a job that keeps everything");
  if (!self->rescue && !again && static_cast<int64_t>(newer.size()) < policy.keep_last) bad("one of the newest");
  if (!self->rescue && policy.keep_every > 0 && step % policy.keep_every == 0 && !again && !later)
    bad("a step to keep for good");
  if (attempt == Latest(commits)) bad("what \"latest\" names");
  if (loading.contains(attempt)) bad("being loaded");
  condemned_.insert(attempt);
}

void Checker::OnCondemned(const std::string& path) {
  const size_t first = path.find('/');
  if (store_.Read(path, false) == nullptr)
    condemned_.erase(path.substr(first + 1, path.rfind('/') - first - 1));
}

// Of a step whatever of it can be loaded when the pin is there.
void Checker::OnPinned(int64_t step) {
  for (const Commit& commit : Commits()) {
    if (commit.step == step) pinned_[commit.attempt] = step;
  }
}

void Checker::CheckPins() {
  const std::vector<Commit> commits = Commits();
  for (const auto& [attempt, step] : pinned_) {
    const bool seen = std::any_of(commits.begin(), commits.end(),
                                  [&](const Commit& commit) { return commit.attempt == attempt; });
    const std::string wrong = seen ? Restorable(step, attempt, false) : "is not there";
    if (!wrong.empty()) Note(findings_.lost, absl::StrCat(step, "/", attempt, " is pinned and ", wrong));
  }
}

void Checker::CheckReported() {
  for (const auto& [step, attempt] : reported_) {
    if (condemned_.contains(attempt)) continue;
    const std::string wrong = Restorable(step, attempt, false);
    if (wrong.empty()) continue;
    Note(absl::StrContains(wrong, "other content") ? findings_.mislabelled : findings_.lost,
         absl::StrCat(step, "/", attempt, " was COMMITTED and now ", wrong));
  }
}

void Checker::CheckSpace() {
  for (const auto& [step, is_step] : store_.List("")) {
    if (!is_step || step == "epochs") continue;
    for (const auto& [attempt, is_attempt] : store_.List(step)) {
      if (attempt == "pins") continue;
      const v1::Decision* decision = ReadDecision(std::atoll(step.c_str()), attempt, false);
      const auto files = store_.List(absl::StrCat(step, "/", attempt));
      if (decision && decision->kind() == v1::Decision::COMMIT) {
        const int64_t number = std::atoll(step.c_str());
        if (reported_.contains({number, attempt})) continue;  // CheckReported read it
        const std::string wrong = Restorable(number, attempt, false);
        if (!wrong.empty())
          Note(findings_.mislabelled, absl::StrCat(step, "/", attempt, " is committed but ", wrong));
      } else if (!decision && !files.empty()) {
        Note(findings_.broken, absl::StrCat(step, "/", attempt, " was never decided: its space is lost"));
      } else if (files.size() > 1) {
        Note(findings_.broken,
             absl::StrCat(step, "/", attempt, " is aborted but still holds ", files[1].first));
      }
    }
  }
}

void Checker::OnEnd() {
  CheckReported();
  CheckPins();
  CheckSpace();
}

}  // namespace keepstep::sim
