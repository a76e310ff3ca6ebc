#include "tests/sim/trace.h"

#include <charconv>
#include <type_traits>
#include <variant>

#include "absl/strings/string_view.h"

namespace keepstep::sim {
namespace {

using namespace keepstep::daemon;  // the whole seam is described here

void Append(std::string& line, absl::string_view text) { line.append(text.data(), text.size()); }

template <class Number>
  requires std::is_integral_v<Number>
void Append(std::string& line, Number number) {
  char digits[24];
  line.append(digits, std::to_chars(digits, digits + sizeof digits, +number).ptr);
}

void Append(std::string& line, const storage::StoreOp& op);
void Append(std::string& line, const Verdict& verdict);

struct Describer {
  std::string& line;

  template <class... Args>
  void Line(const Args&... args) const {
    ((Append(line, args), line += ' '), ...);
  }
};

void Append(std::string& line, const storage::StoreOp& op) {
  static constexpr const char* kNames[] = {"list", "read",   "read-published", "publish",
                                           "sync", "delete", "delete-tree",    "put"};
  Describer{line}.Line(kNames[static_cast<int>(op.kind)], op.path, op.bytes.size());
}

void Append(std::string& line, const Verdict& verdict) {
  Describer{line}.Line("number", verdict.number, "step", verdict.step, verdict.attempt, "state",
                       static_cast<int>(verdict.state), verdict.failure.reason, verdict.failure.stage,
                       verdict.failure.rank);
}

struct EventLine : Describer {
  void operator()(const JobStarted& e) {
    Line("> started epoch", e.epoch, "roster", e.roster.size(), "journal", e.journal.size());
  }
  void operator()(const SessionOpened& e) {
    Line("> open session", e.session, "rank", e.rank, "of", e.world_size, "epoch", e.epoch, "issued",
         e.saves_issued);
  }
  void operator()(const SessionLost& e) { Line("> lost session", e.session); }
  void operator()(const SessionDead& e) { Line("> dead session", e.session); }
  void operator()(const Registered& e) {
    Line("> registered", e.session, e.generation, e.fingerprint);
  }
  void operator()(const SessionKept& e) { Line("> session kept", e.session); }
  void operator()(const RescueRequested& e) { Line("> rescue", e.step); }
  void operator()(const SaveRequested& e) {
    Line("> save session", e.session, "number", e.number, "step", e.step);
  }
  void operator()(const PlanMade& e) { Line("> plan made", e.attempt, e.status.ok()); }
  void operator()(const GroupCopied& e) {
    Line("> group copied", e.attempt, "rank", e.rank, "group", e.group);
  }
  void operator()(const RankCopied& e) { Line("> rank copied", e.attempt, "rank", e.rank); }
  void operator()(const RankFlushed& e) { Line("> rank flushed", e.attempt, "rank", e.rank); }
  void operator()(const RankIoFailed& e) {
    Line("> rank failed", e.attempt, "rank", e.rank, e.stage);
  }
  void operator()(const VerdictSeen& e) {
    Line("> verdict session", e.session, "number", e.number, e.sealed ? "sealed" : "poisoned");
  }
  void operator()(const PartWritten& e) {
    Line("> part written", e.attempt, e.status.message());
  }
  void operator()(const IoStopped& e) { Line("> io stopped", e.attempt); }
  void operator()(const LoadRequested& e) {
    Line("> load session", e.session, "ticket", e.ticket, e.latest ? "latest" : "step", e.step);
  }
  void operator()(const CancelRequested& e) { Line("> cancel", e.step); }
  void operator()(const StoreDone& e) {
    Line("> store done", e.op, e.result.status.message(), e.result.bytes.size(),
         e.result.blobs.size());
  }
  void operator()(const CatalogDone& e) { Line("> catalog done", e.op, e.status.ok()); }
  void operator()(const SaveProgressed& e) { Line("> progress", e.attempt); }
  void operator()(const CollectRequested& e) { Line("> collect", e.ticket, e.dry_run); }
  void operator()(const DeletionCut&) { line += "> deletion cut"; }
  void operator()(const DrainRequested&) { line += "> drain"; }
  void operator()(const SaveWished&) { line += "> wish"; }
  void operator()(const StepsSeen&) { line += "> steps"; }
  void operator()(const Tick&) { line += "> tick"; }
};

struct ActionLine : Describer {
  void operator()(const AnswerOpen& a) {
    Line("< opened session", a.session, "epoch", a.epoch, "unsettled", a.unsettled.size(),
         a.failure.reason);
  }
  void operator()(const MoveSession& a) { Line("< move session", a.session, "epoch", a.epoch); }
  void operator()(const CloseSession& a) {
    Line("< close session", a.session, a.failure.reason);
  }
  void operator()(const AnswerSave& a) {
    Line("< saved session", a.session, a.status, "earlier", a.earlier.size());
  }
  void operator()(const AnswerLoad& a) {
    Line("< loaded session", a.session, "ticket", a.ticket, a.found, a.step, a.attempt, "epoch",
         a.epoch, a.failure.reason);
  }
  void operator()(const AnswerCancel& a) { Line("< cancelled", a.cancelled); }
  void operator()(const Report& a) { Line("< report session", a.session, a.status); }
  void operator()(const Release& a) {
    Line("< release session", a.session, "number", a.number, a.all_groups ? "all" : "group", a.group);
  }
  void operator()(const RescueStarted& a) { Line("< rescue", a.attempt, "number", a.number); }
  void operator()(const RescueRefused& a) { Line("< no rescue", a.failure.reason); }
  void operator()(const SetSaveAt& a) { Line("< save at", a.step); }
  void operator()(const MakePlan& a) { Line("< plan", a.attempt, a.first); }
  void operator()(const StartRank& a) {
    Line("< start", a.attempt, "rank", a.rank, "session", a.session);
  }
  void operator()(const WritePart& a) { Line("< part", a.attempt); }
  void operator()(const StopIo& a) { Line("< stop", a.attempt); }
  void operator()(const DoStore& a) { Line("< store", a.op, a.what); }
  void operator()(const PutJournal& a) { Line("< put journal", a.op, a.entry.attempt); }
  void operator()(const EraseJournal& a) { Line("< erase journal", a.op, a.attempt); }
  void operator()(const PutRoster& a) {
    Line("< put roster", a.op, "epoch", a.epoch, a.roster.size());
  }
  void operator()(const RecordCommit& a) { Line("< record commit", a.op, a.attempt); }
  void operator()(const RecordGone& a) { Line("< record gone", a.op, a.attempt); }
  void operator()(const ReserveAttempt& a) { Line("< reserve", a.op, a.attempt); }
  void operator()(const ReleaseAttempt& a) { Line("< release", a.attempt); }
  void operator()(const AnswerCollect& a) { Line("< collected", a.ticket, a.failure.reason); }
  void operator()(const Drained& a) { Line("< drained", a.undecided); }
};

}  // namespace

void Describe(const Event& event, std::string& line) { std::visit(EventLine{{line}}, event); }
void Describe(const Action& action, std::string& line) { std::visit(ActionLine{{line}}, action); }

}  // namespace keepstep::sim
