#include "daemon/rescue_judge.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/device/device_port.h"
#include "daemon/record_port.h"
#include "daemon/save_request.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kRanksNamed = 8;

RankJudgement Refused(RankJudgement judged, std::string why) {
  judged.why = std::move(why);
  return judged;
}

}  // namespace

RankJudgement JudgeRank(ClientSession& session) {
  RankJudgement judged{.session = session.id()};
  const auto member = session.membership();
  const auto registration = session.registration();
  if (member.has_value()) judged.rank = member->rank;
  if (!member.has_value() || registration == nullptr) return Refused(std::move(judged), "it had registered nothing");
  auto record = proto::ReadFlightRecord(session.flight_record());
  if (!record.ok()) return Refused(std::move(judged), std::string(record.status().message()));
  judged.words = record->words;
  std::string why;
  const proto::FlightNote* const whole = proto::WholeNote(*record, registration->generation, &why);
  if (whole == nullptr) return Refused(std::move(judged), std::move(why));
  v1::SaveRequest request;
  if (!request.ParseFromString(whole->request) || request.step() != whole->slot.step)
    return Refused(std::move(judged), "its note holds no request for a save");
  request.set_number(1);  // its own is given later
  if (absl::Status status = CheckSave(request); !status.ok())
    return Refused(std::move(judged), absl::StrCat("its note's save is none: ", status.message()));
  judged.step = request.step();
  judged.args = ArgsFrom(request, *member, registration);
  judged.args.rescue = true;
  judged.args.port = session.port_of_record(registration, std::make_shared<const proto::FlightNote>(*whole));
  return judged;
}

std::string WhyNoRescue(absl::Span<const RankJudgement> ranks) {
  std::map<int64_t, int> at;  // ranks by step
  for (const RankJudgement& rank : ranks) {
    if (!rank.why.empty()) return absl::StrCat("rank ", rank.rank, ": ", rank.why);
    ++at[rank.step];
  }
  if (at.size() <= 1) return "";
  int64_t most = at.rbegin()->first;  // of equals, the later
  for (const auto& [step, count] : at) {
    if (count > at[most]) most = step;
  }
  std::vector<std::string> others;
  for (const RankJudgement& rank : ranks) {
    if (rank.step != most && others.size() < kRanksNamed)
      others.push_back(absl::StrCat("rank ", rank.rank, " was at step ", rank.step));
  }
  return absl::StrCat(absl::StrJoin(others, ", "), ", the others at ", most);
}

}  // namespace keepstep::daemon
