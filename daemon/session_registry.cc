#include "daemon/session_registry.h"

#include <utility>

#include "daemon/device/device_table.h"

namespace keepstep::daemon {

void SessionRegistry::Add(std::shared_ptr<ClientSession> session) {
  std::lock_guard lock(mutex_);
  by_token_[session->token()] = session->id();
  by_id_[session->id()] = std::move(session);
}

std::shared_ptr<ClientSession> SessionRegistry::ByToken(absl::string_view token) const {
  std::lock_guard lock(mutex_);
  auto found = by_token_.find(token);
  return found == by_token_.end() ? nullptr : by_id_.at(found->second);
}

std::shared_ptr<ClientSession> SessionRegistry::ById(SessionId id) const {
  std::lock_guard lock(mutex_);
  auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

std::shared_ptr<ClientSession> SessionRegistry::Take(SessionId id) {
  std::lock_guard lock(mutex_);
  auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  std::shared_ptr<ClientSession> session = std::move(found->second);
  by_token_.erase(session->token());
  by_id_.erase(found);
  return session;
}

bool SessionRegistry::Remove(SessionId id, absl::Status why) {
  const std::shared_ptr<ClientSession> session = Take(id);
  if (session == nullptr) return false;
  session->End(std::move(why));
  return true;
}

std::vector<std::shared_ptr<ClientSession>> SessionRegistry::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<ClientSession>> all;
  all.reserve(by_id_.size());
  for (const auto& [id, session] : by_id_) all.push_back(session);
  return all;
}

size_t SessionRegistry::size() const {
  std::lock_guard lock(mutex_);
  return by_id_.size();
}

SessionRegistry::Registered SessionRegistry::registered() const {
  Registered all;
  for (const auto& session : All()) {
    const auto member = session->membership();
    const auto registration = session->registration();
    if (!member.has_value() || !member->training || registration == nullptr) continue;
    all.total_bytes += registration->total_bytes;
    const int node = registration->devices == nullptr ? kAnyNode : registration->devices->node();
    if (node != kAnyNode) all.near_bytes[node] += registration->total_bytes;
  }
  return all;
}

}  // namespace keepstep::daemon
