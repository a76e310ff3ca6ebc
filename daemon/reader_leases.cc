#include "daemon/reader_leases.h"

namespace keepstep::daemon {

ReadLease ReaderLeases::Take(const std::string& key) {
  std::lock_guard lock(table_->mutex);
  if (table_->reserved.count(key) != 0) return nullptr;
  ++table_->readers[key];
  return ReadLease(table_.get(), [table = table_, key](const void*) {
    std::lock_guard lock(table->mutex);
    const auto readers = table->readers.find(key);
    if (--readers->second == 0) table->readers.erase(readers);
  });
}

bool ReaderLeases::Reserve(const std::string& key) {
  std::lock_guard lock(table_->mutex);
  return table_->readers.count(key) == 0 && table_->reserved.insert(key).second;
}

void ReaderLeases::Release(const std::string& key) {
  std::lock_guard lock(table_->mutex);
  table_->reserved.erase(key);
}

bool ReaderLeases::in_use() const {
  std::lock_guard lock(table_->mutex);
  return !table_->readers.empty() || !table_->reserved.empty();
}

}  // namespace keepstep::daemon
