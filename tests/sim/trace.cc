#include "tests/sim/trace.h"

#include <variant>

#include "absl/strings/str_cat.h"

namespace keepstep::sim {
namespace {

using namespace keepstep::daemon;  // the whole seam is described here

template <class... Args>
std::string Line(const Args&... args) {
  std::string line;
  (absl::StrAppend(&line, args, " "), ...);
  return line;
}

std::string Of(const storage::StoreOp& op) {
  static constexpr const char* kNames[] = {"list", "read",   "read-published", "publish",
                                           "sync", "delete", "delete-tree",    "put"};
  return Line(kNames[static_cast<int>(op.kind)], op.path, op.bytes.size());
}

std::string Of(const Verdict& verdict) {
  return Line("number", verdict.number, "step", verdict.step, verdict.attempt, "state",
              static_cast<int>(verdict.state), verdict.failure.reason, verdict.failure.stage,
              verdict.failure.rank);
}

struct EventLine {
  std::string operator()(const JobStarted& e) {
    return Line("> started epoch", e.epoch, "roster", e.roster.size(), "journal", e.journal.size());
  }
  std::string operator()(const SessionOpened& e) {
    return Line("> open session", e.session, "rank", e.rank, "of", e.world_size, "epoch", e.epoch, "issued",
                e.saves_issued);
  }
  std::string operator()(const SessionLost& e) { return Line("> lost session", e.session); }
  std::string operator()(const SessionDead& e) { return Line("> dead session", e.session); }
  std::string operator()(const Registered& e) {
    return Line("> registered", e.session, e.generation, e.fingerprint);
  }
  std::string operator()(const SaveRequested& e) {
    return Line("> save session", e.session, "number", e.number, "step", e.step);
  }
  std::string operator()(const PlanMade& e) { return Line("> plan made", e.attempt, e.status.ok()); }
  std::string operator()(const GroupCopied& e) {
    return Line("> group copied", e.attempt, "rank", e.rank, "group", e.group);
  }
  std::string operator()(const RankCopied& e) { return Line("> rank copied", e.attempt, "rank", e.rank); }
  std::string operator()(const RankFlushed& e) { return Line("> rank flushed", e.attempt, "rank", e.rank); }
  std::string operator()(const RankIoFailed& e) {
    return Line("> rank failed", e.attempt, "rank", e.rank, e.stage);
  }
  std::string operator()(const VerdictSeen& e) {
    return Line("> verdict session", e.session, "number", e.number, e.sealed ? "sealed" : "poisoned");
  }
  std::string operator()(const PartWritten& e) {
    return Line("> part written", e.attempt, std::string(e.status.message()));
  }
  std::string operator()(const IoStopped& e) { return Line("> io stopped", e.attempt); }
  std::string operator()(const LoadRequested& e) {
    return Line("> load session", e.session, "ticket", e.ticket, e.latest ? "latest" : "step", e.step);
  }
  std::string operator()(const CancelRequested& e) { return Line("> cancel", e.step); }
  std::string operator()(const StoreDone& e) {
    return Line("> store done", e.op, std::string(e.result.status.message()), e.result.bytes.size(),
                e.result.blobs.size());
  }
  std::string operator()(const CatalogDone& e) { return Line("> catalog done", e.op, e.status.ok()); }
  std::string operator()(const SaveProgressed& e) { return Line("> progress", e.attempt); }
  std::string operator()(const DrainRequested&) { return "> drain"; }
  std::string operator()(const SaveWished&) { return "> wish"; }
  std::string operator()(const StepsSeen&) { return "> steps"; }
  std::string operator()(const Tick&) { return "> tick"; }
};

struct ActionLine {
  std::string operator()(const AnswerOpen& a) {
    return Line("< opened session", a.session, "epoch", a.epoch, "unsettled", a.unsettled.size(),
                a.failure.reason);
  }
  std::string operator()(const MoveSession& a) { return Line("< move session", a.session, "epoch", a.epoch); }
  std::string operator()(const CloseSession& a) {
    return Line("< close session", a.session, a.failure.reason);
  }
  std::string operator()(const AnswerSave& a) {
    return Line("< saved session", a.session, Of(a.status), "earlier", a.earlier.size());
  }
  std::string operator()(const AnswerLoad& a) {
    return Line("< loaded session", a.session, "ticket", a.ticket, a.found, a.step, a.attempt, "epoch",
                a.epoch, a.failure.reason);
  }
  std::string operator()(const AnswerCancel& a) { return Line("< cancelled", a.cancelled); }
  std::string operator()(const Report& a) { return Line("< report session", a.session, Of(a.status)); }
  std::string operator()(const Release& a) {
    return Line("< release session", a.session, "number", a.number, a.all_groups ? "all" : "group", a.group);
  }
  std::string operator()(const SetSaveAt& a) { return Line("< save at", a.step); }
  std::string operator()(const MakePlan& a) { return Line("< plan", a.attempt, a.first); }
  std::string operator()(const StartRank& a) {
    return Line("< start", a.attempt, "rank", a.rank, "session", a.session);
  }
  std::string operator()(const WritePart& a) { return Line("< part", a.attempt); }
  std::string operator()(const StopIo& a) { return Line("< stop", a.attempt); }
  std::string operator()(const DoStore& a) { return Line("< store", a.op, Of(a.what)); }
  std::string operator()(const PutJournal& a) { return Line("< put journal", a.op, a.entry.attempt); }
  std::string operator()(const EraseJournal& a) { return Line("< erase journal", a.op, a.attempt); }
  std::string operator()(const PutRoster& a) {
    return Line("< put roster", a.op, "epoch", a.epoch, a.roster.size());
  }
  std::string operator()(const RecordCommit& a) { return Line("< record commit", a.op, a.attempt); }
  std::string operator()(const RecordGone& a) { return Line("< record gone", a.op, a.attempt); }
  std::string operator()(const Drained& a) { return Line("< drained", a.undecided); }
};

}  // namespace

std::string Describe(const Event& event) { return std::visit(EventLine(), event); }
std::string Describe(const Action& action) { return std::visit(ActionLine(), action); }

}  // namespace keepstep::sim
