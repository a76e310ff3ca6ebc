#include "daemon/http_pages.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/health.h"
#include "daemon/state_collector.h"
#include "daemon/status_view.h"

namespace keepstep::daemon {
namespace {

constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

HttpResponse Health(const absl::Status& status) {
  if (status.ok()) return {.body = "ok\n"};
  return {.status = 503, .body = absl::StrCat(status.message(), "\n")};
}

HttpResponse MetricsPage(const ServerState& state, const Viewer& viewer) {
  std::vector<prometheus::MetricFamily> families = state.metrics->registry().Collect();
  for (prometheus::MetricFamily& family : CollectState(state, viewer)) families.push_back(std::move(family));
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return {.content_type = kMetricsType, .body = text.str()};
}

}  // namespace

std::vector<HttpRoute> HttpPages(const ServerState* state, const OperatorToken* token) {
  return {
      {"/healthz", false, [state](const HttpRequest&) { return Health(CheckAlive(*state)); }},
      {"/readyz", false, [state](const HttpRequest&) { return Health(CheckReady(*state)); }},
      {"/metrics", false,
       [state, token](const HttpRequest& request) { return MetricsPage(*state, ViewerOf(request, token->Get())); }},
      {"/", true,
       [state, token](const HttpRequest& request) {
         return HttpResponse{.content_type = "text/html; charset=utf-8",
                             .body = RenderHtml(GatherStatus(*state, ViewerOf(request, token->Get())))};
       }},
      {"/status.json", true,
       [state, token](const HttpRequest& request) {
         return HttpResponse{.content_type = "application/json",
                             .body = RenderJson(GatherStatus(*state, ViewerOf(request, token->Get())))};
       }},
  };
}

}  // namespace keepstep::daemon
