#include "daemon/rescue_judge.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/device_port.h"
#include "daemon/record_port.h"
#include "daemon/save_request.h"

namespace keepstep::daemon {
namespace {

RankJudgement Refused(RankJudgement judged, std::string why) {
  judged.at.why = std::move(why);
  return judged;
}

}  // namespace

RankJudgement JudgeRank(ClientSession& session) {
  RankJudgement judged{.session = session.id()};
  const auto member = session.membership();
  const auto registration = session.registration();
  if (member.has_value()) judged.at.rank = member->rank;
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
  judged.at.step = request.step();
  judged.args = ArgsFrom(request, *member, registration);
  judged.args.rescue = true;
  judged.args.port = session.port_of_record(registration, std::make_shared<const proto::FlightNote>(*whole));
  return judged;
}

}  // namespace keepstep::daemon
