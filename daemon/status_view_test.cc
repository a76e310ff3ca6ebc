#include "daemon/status_view.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

StatusView View() {
  StatusView view{.version = "1.2.3", .io_engine = "io_uring", .readiness = "ready", .uptime_seconds = 4000};
  view.now_unix_ms = 1'000'000'000;
  view.jobs_known = 3;
  view.problems.push_back({.job = "llama",
                           .step = 900,
                           .severity = Problem::Severity::kError,
                           .kind = "stuck",
                           .sentence = "Step 900 is stuck.",
                           .details = {"Waiting for rank 13."},
                           .next = {"keepstep why llama/900"}});
  view.flights.push_back({.job = "llama",
                          .step = 900,
                          .stage = "persist",
                          .total_bytes = 1000,
                          .done_bytes = 630,
                          .seconds = 10,
                          .bytes_per_second = 63,
                          .seconds_left = 5.9,
                          .stuck = true,
                          .waiting_for_ranks = {13}});
  view.jobs.push_back({.job = "llama",
                       .directory = "/ckpt/llama",
                       .health = "ok",
                       .ranks = 1,
                       .world_size = 2,
                       .last_commit_unix_ms = view.now_unix_ms - 61'000,
                       .stored = 14,
                       .checkpoints = {{.step = 800,
                                        .epoch = 1,
                                        .bytes = 2048,
                                        .world_size = 2,
                                        .unix_ms = view.now_unix_ms - 61'000,
                                        .pinned = true}}});
  return view;
}

TEST(StatusPage, SaysWhatIsWrongInFlightAndStored) {
  const std::string page = RenderHtml(View());
  for (const char* expected :
       {"Step 900 is stuck.", "Waiting for rank 13.", "<code>keepstep why llama/900</code>", "llama/900",
        "persist", "width:63%", "630 B of 1000 B", "<code>keepstep export llama/800 DIR</code>", "rank 13",
        "last commit 1 min 1 s ago", "1 of 2 ranks", ">800<", "2.0 KiB", "pinned", "and 13 older",
        "2 more are not shown", "http-equiv=refresh"})
    EXPECT_TRUE(absl::StrContains(page, expected)) << expected << "\n" << page;
  EXPECT_FALSE(absl::StrContains(page, "<script"));
  EXPECT_FALSE(absl::StrContains(page, "http://")) << "fetches nothing";
  EXPECT_TRUE(absl::StrContains(RenderHtml({}), "Nothing.")) << "an empty daemon has a page too";
}

// A job's name is any bytes that a directory's may be.
TEST(StatusPage, NamesCannotBecomeMarkup) {
  StatusView view = View();
  const std::string evil = "<script>alert('x')</script>&\"\n\xff";
  view.jobs[0].job = view.jobs[0].directory = view.flights[0].job = view.problems[0].job =
      view.problems[0].sentence = evil;
  view.problems[0].next = {evil};
  const std::string page = RenderHtml(view);
  EXPECT_FALSE(absl::StrContains(page, "<script"));
  EXPECT_FALSE(absl::StrContains(page, "alert('x')"));
  EXPECT_TRUE(absl::StrContains(page, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;?"));
  const auto json = nlohmann::json::parse(RenderJson(view));
  EXPECT_TRUE(
      absl::StartsWith(json["jobs"][0]["job"].get<std::string>(), "<script>alert('x')</script>&\"\n"));
}

TEST(StatusPage, TheJsonTwinHoldsTheSameFacts) {
  const auto json = nlohmann::json::parse(RenderJson(View()));
  EXPECT_EQ(json["problems"][0]["severity"], "error");
  EXPECT_EQ(json["problems"][0]["sentence"], "Step 900 is stuck.");
  EXPECT_EQ(json["in_flight"][0]["done_bytes"], 630);
  EXPECT_EQ(json["jobs"][0]["checkpoints"][0]["pinned"], true);
  EXPECT_EQ(json["jobs"][0]["stored"], 14);
  StatusView unknown = View();
  unknown.flights[0].seconds_left = -1;
  EXPECT_TRUE(nlohmann::json::parse(RenderJson(unknown))["in_flight"][0]["seconds_left"].is_null());
}

}  // namespace
}  // namespace keepstep::daemon
