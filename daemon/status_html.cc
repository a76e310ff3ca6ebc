// The page, in the order of questions at three in the morning.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "daemon/log.h"
#include "daemon/status_view.h"

namespace keepstep::daemon {
namespace {

constexpr int kReloadSeconds = 5;

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; --ink: #1d232b; --dim: #667080; --line: #dfe3e8; --paper: #fff; --soft: #f5f7f9;
  --good: #1a7f4b; --warn: #a15c00; --bad: #b3261e; --bar: #3b6fd4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --dim: #98a2b0; --line: #313943; --paper: #14181d;
  --soft: #1c2229; --good: #56c98a; --warn: #e6a23c; --bad: #ff7b72; --bar: #6c9bf0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 68rem;
  padding: 1.2rem 1.5rem 3rem; }
h1 { font-size: 1.15rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 0; } h3 + p { margin: .1rem 0 .5rem; }
header { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; align-items: baseline; border-bottom: 1px solid var(--line);
  padding-bottom: .7rem; }
.dim { color: var(--dim); } .good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.card { border: 1px solid var(--line); border-left: 4px solid var(--dim); border-radius: 4px; background: var(--soft);
  padding: .6rem .9rem; margin: .5rem 0; }
.card.error { border-left-color: var(--bad); } .card.warning { border-left-color: var(--warn); }
.card p { margin: .15rem 0; } code { font: .86em ui-monospace, monospace; background: var(--soft); border: 1px solid var(--line);
  border-radius: 3px; padding: .05rem .35rem; margin-right: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: .85rem; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
.n { text-align: right; } .bar { background: var(--line); border-radius: 3px; height: .5rem; width: 9rem; display: inline-block; }
.bar i { display: block; height: 100%; border-radius: 3px; background: var(--bar); } .stuck .bar i { background: var(--bad); }
)";

std::string Escaped(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
  }
  return out;
}

std::string Duration(double seconds) {
  const int64_t whole = static_cast<int64_t>(std::max(0.0, seconds));
  if (whole >= 86'400) return absl::StrCat(whole / 86'400, " d ", whole % 86'400 / 3'600, " h");
  if (whole >= 3'600) return absl::StrCat(whole / 3'600, " h ", whole % 3'600 / 60, " min");
  if (whole >= 60) return absl::StrCat(whole / 60, " min ", whole % 60, " s");
  return seconds < 10 ? absl::StrFormat("%.1f s", std::max(0.0, seconds)) : absl::StrCat(whole, " s");
}

std::string Ago(int64_t unix_ms, const StatusView& view) {
  if (unix_ms <= 0) return "never";
  return Duration(static_cast<double>(view.now_unix_ms - unix_ms) / 1000) + " ago";
}

std::string Rate(double bytes_per_second) {
  return bytes_per_second <= 0 ? "" : HumanBytes(static_cast<int64_t>(bytes_per_second)) + "/s";
}

std::string Header(const StatusView& view) {
  const bool ready = view.readiness == "ready";
  return absl::StrCat(
      "<header><h1>keepstepd ", Escaped(view.version), "</h1><span class=\"", ready ? "good" : "bad", "\">",
      Escaped(view.readiness), "</span><span class=dim>up ", Duration(view.uptime_seconds), "</span>",
      "<span class=dim>pool ", HumanBytes(view.pool_used_bytes), " of ", HumanBytes(view.pool_limit_bytes),
      "</span><span class=dim>", view.sessions, view.sessions == 1 ? " client" : " clients",
      "</span><span class=dim>", Escaped(view.io_engine),
      "</span><span class=dim><a href=\"/status.json\">JSON</a> <a href=\"/metrics\">metrics</a></span>",
      "</header>\n");
}

std::string Wrong(const StatusView& view) {
  std::string out = "<h2>What is wrong</h2>\n";
  if (view.problems.empty()) return out + "<p class=good>Nothing.</p>\n";
  for (const Problem& problem : view.problems) {
    const char* kind = problem.severity == Problem::Severity::kError     ? "error"
                       : problem.severity == Problem::Severity::kWarning ? "warning"
                                                                         : "note";
    absl::StrAppend(&out, "<div class=\"card ", kind, "\"><p><b>", Escaped(problem.job),
                    problem.step >= 0 ? absl::StrCat("/", problem.step) : "", "</b> ",
                    Escaped(problem.sentence), "</p>");
    for (const std::string& detail : problem.details)
      absl::StrAppend(&out, "<p class=dim>", Escaped(detail), "</p>");
    if (!problem.next.empty()) absl::StrAppend(&out, "<p>");
    for (const std::string& command : problem.next)
      absl::StrAppend(&out, "<code>", Escaped(command), "</code>");
    absl::StrAppend(&out, problem.next.empty() ? "" : "</p>", "</div>\n");
  }
  return out;
}

std::string FlightRow(const FlightView& flight) {
  const double share = flight.total_bytes <= 0 ? 0
                                               : std::clamp(100.0 * static_cast<double>(flight.done_bytes) /
                                                                static_cast<double>(flight.total_bytes),
                                                            0.0, 100.0);
  std::string waits;
  if (!flight.waiting_for_ranks.empty())
    waits = absl::StrCat("rank ", absl::StrJoin(flight.waiting_for_ranks, ", "));
  return absl::StrCat(
      "<tr", flight.stuck ? " class=stuck" : "", "><td>", Escaped(flight.job), "/", flight.step, "</td><td>",
      flight.stage, flight.stuck ? " <b class=bad>stuck</b>" : "",
      absl::StrFormat("</td><td><span class=bar><i style=\"width:%.0f%%\"></i></span> %.0f %%", share, share),
      "</td><td class=n>", HumanBytes(flight.done_bytes), " of ", HumanBytes(flight.total_bytes),
      "</td><td class=n>", Rate(flight.stuck ? 0 : flight.bytes_per_second), "</td><td class=n>",
      flight.seconds_left < 0 ? "" : Duration(flight.seconds_left), "</td><td class=n>",
      Duration(flight.seconds), "</td><td>", waits, "</td></tr>\n");
}

std::string Flights(const StatusView& view) {
  std::string out = "<h2>What is in flight</h2>\n";
  if (view.flights.empty()) return out + "<p class=dim>No save.</p>\n";
  absl::StrAppend(&out,
                  "<table><tr><th>save<th>stage<th>progress<th class=n>bytes<th class=n>rate<th class=n>left"
                  "<th class=n>since<th>waits for</tr>\n");
  for (const FlightView& flight : view.flights) absl::StrAppend(&out, FlightRow(flight));
  return out + "</table>\n";
}

std::string JobSection(const JobRow& row, const StatusView& view) {
  std::string out = absl::StrCat("<h3>", Escaped(row.job), " <span class=dim>", Escaped(row.directory),
                                 "</span></h3>\n<p>");
  absl::StrAppend(&out, "last commit ", Ago(row.last_commit_unix_ms, view));
  if (row.world_size > 0) absl::StrAppend(&out, " · ", row.ranks, " of ", row.world_size, " ranks here");
  if (row.total_bytes > 0)
    absl::StrAppend(&out, " · ", HumanBytes(row.free_bytes), " free of ", HumanBytes(row.total_bytes));
  const bool ok = row.health == "ok";
  absl::StrAppend(&out, " · <span class=", ok ? "good>ok" : "warn>see above", "</span></p>\n");
  if (row.checkpoints.empty()) return out + "<p class=dim>Nothing to load yet.</p>\n";
  absl::StrAppend(
      &out,
      "<table><tr><th class=n>step<th class=n>size<th class=n>ranks<th class=n>epoch<th class=n>age<th>"
      "<th>take it out</tr>\n");
  for (const StoredView& stored : row.checkpoints) {
    absl::StrAppend(&out, "<tr><td class=n>", stored.step, "</td><td class=n>", HumanBytes(stored.bytes),
                    "</td><td class=n>", stored.world_size, "</td><td class=n>", stored.epoch,
                    "</td><td class=n>", Ago(stored.unix_ms, view), "</td><td>",
                    stored.pinned ? "pinned" : "", "</td><td><code>keepstep export ", Escaped(row.job), "/",
                    stored.step, " DIR</code></td></tr>\n");
  }
  absl::StrAppend(&out, "</table>\n");
  if (row.stored > row.checkpoints.size()) {
    absl::StrAppend(&out, "<p class=dim>and ", row.stored - row.checkpoints.size(),
                    " older: <code>keepstep ls ", Escaped(row.job), "</code></p>\n");
  }
  return out;
}

std::string Loadable(const StatusView& view) {
  std::string out = "<h2>What can be loaded</h2>\n";
  for (const JobRow& row : view.jobs) absl::StrAppend(&out, JobSection(row, view));
  if (view.jobs.empty()) absl::StrAppend(&out, "<p class=dim>No job that you may see.</p>\n");
  if (view.jobs_known > view.jobs.size()) {
    absl::StrAppend(&out, "<p class=dim>", view.jobs_known - view.jobs.size(),
                    " more are not shown here: other users' jobs need the operator's token.</p>\n");
  }
  return out;
}

}  // namespace

std::string RenderHtml(const StatusView& view) {
  return absl::StrCat("<!doctype html>\n<html lang=en><head><meta charset=utf-8>",
                      "<meta name=viewport content=\"width=device-width\"><meta http-equiv=refresh content=",
                      kReloadSeconds, "><title>", view.problems.empty() ? "" : "! ",
                      "keepstepd</title><style>", kStyle, "</style></head><body>\n", Header(view),
                      Wrong(view), Flights(view), Loadable(view), "</body></html>\n");
}

}  // namespace keepstep::daemon
