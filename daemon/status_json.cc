#include <nlohmann/json.hpp>

#include "daemon/status_view.h"

namespace keepstep::daemon {
namespace {

using nlohmann::json;

const char* SeverityName(Problem::Severity severity) {
  return severity == Problem::Severity::kError     ? "error"
         : severity == Problem::Severity::kWarning ? "warning"
                                                   : "note";
}

json OfProblem(const Problem& problem) {
  return {
      {"job", problem.job},   {"step", problem.step},         {"severity", SeverityName(problem.severity)},
      {"kind", problem.kind}, {"sentence", problem.sentence}, {"details", problem.details},
      {"next", problem.next}};
}

json OfFlight(const FlightView& flight) {
  return {{"job", flight.job},
          {"step", flight.step},
          {"stage", flight.stage},
          {"total_bytes", flight.total_bytes},
          {"done_bytes", flight.done_bytes},
          {"seconds", flight.seconds},
          {"bytes_per_second", flight.bytes_per_second},
          {"seconds_left", flight.seconds_left < 0 ? json() : json(flight.seconds_left)},
          {"stuck", flight.stuck},
          {"waiting_for_ranks", flight.waiting_for_ranks}};
}

json OfJob(const JobRow& row) {
  json checkpoints = json::array();
  for (const StoredView& stored : row.checkpoints) {
    checkpoints.push_back({{"step", stored.step},
                           {"epoch", stored.epoch},
                           {"bytes", stored.bytes},
                           {"world_size", stored.world_size},
                           {"unix_ms", stored.unix_ms},
                           {"pinned", stored.pinned}});
  }
  return {{"job", row.job},
          {"directory", row.directory},
          {"health", row.health},
          {"ranks", row.ranks},
          {"world_size", row.world_size},
          {"last_commit_unix_ms", row.last_commit_unix_ms},
          {"free_bytes", row.free_bytes},
          {"total_bytes", row.total_bytes},
          {"stored", row.stored},
          {"checkpoints", std::move(checkpoints)}};
}

template <typename Items, typename Of>
json ListOf(const Items& items, Of of) {
  json list = json::array();
  for (const auto& item : items) list.push_back(of(item));
  return list;
}

}  // namespace

std::string RenderJson(const StatusView& view) {
  const json all = {{"version", view.version},
                    {"io_engine", view.io_engine},
                    {"readiness", view.readiness},
                    {"uptime_seconds", view.uptime_seconds},
                    {"pool", {{"used_bytes", view.pool_used_bytes}, {"limit_bytes", view.pool_limit_bytes}}},
                    {"sessions", view.sessions},
                    {"jobs_known", view.jobs_known},
                    {"now_unix_ms", view.now_unix_ms},
                    {"problems", ListOf(view.problems, OfProblem)},
                    {"in_flight", ListOf(view.flights, OfFlight)},
                    {"jobs", ListOf(view.jobs, OfJob)}};
  // Directory names are any bytes: what is no UTF-8 is replaced, not an error.
  return all.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace keepstep::daemon
