#include "daemon/log_view.h"

#include <utility>

namespace keepstep::daemon {

LogView::LogView(const ServerState& state, std::shared_ptr<ClientSession> session, std::string label)
    : state_(state), session_(std::move(session)), label_(std::move(label)) {}

std::vector<v1::LogLine> LogView::Filter(const std::vector<LogLine>& lines) const {
  const bool all = IsOperator(session_.get());
  std::set<const Job*> visible;
  std::set<std::string> shown, hidden;  // labels
  if (!all) {
    for (const auto& job : state_.jobs->VisibleTo(session_.get())) visible.insert(job.get());
    for (const auto& job : state_.jobs->All())
      (visible.contains(job.get()) ? shown : hidden).insert(job->label());
  }
  std::vector<v1::LogLine> found;
  for (const LogLine& line : lines) {
    if (!label_.empty() && line.job != label_) continue;
    if (!all && (!shown.contains(line.job) || hidden.contains(line.job))) continue;
    v1::LogLine& out = found.emplace_back();
    out.set_number(line.number);
    out.set_unix_ms(line.unix_ms);
    out.set_level(LevelName(line.level));
    out.set_job(line.job);
    out.set_text(line.text);
  }
  return found;
}

}  // namespace keepstep::daemon
