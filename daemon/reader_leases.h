// Who in this daemon reads which checkpoint, so that a deletion and a reader never meet.
//
//   reader: Take → reads the manifest → reads → lets go of the lease
//   deletion: Reserve → DELETING … → Release
//
// Of the two the first wins: a checkpoint with a lease is not reserved, one that is reserved gives no lease.
// A reader of another process has pins instead (storage/delete.h).
//
// Thread-safe; nothing blocks.

#ifndef KEEPSTEP_DAEMON_READER_LEASES_H_
#define KEEPSTEP_DAEMON_READER_LEASES_H_

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

namespace keepstep::daemon {

// Held for as long as somebody reads; lets go when the last copy is gone. Outlives the table if need be.
using ReadLease = std::shared_ptr<const void>;

class ReaderLeases {
 public:
  // `key` names job and attempt. Null: it is being deleted.
  ReadLease Take(const std::string& key);

  // False: somebody reads it, or somebody else deletes it.
  bool Reserve(const std::string& key);
  void Release(const std::string& key);

  // Somebody reads or deletes now.
  bool in_use() const;

 private:
  struct Table {
    std::mutex mutex;
    std::map<std::string, int> readers;
    std::set<std::string> reserved;
  };
  const std::shared_ptr<Table> table_ = std::make_shared<Table>();
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_READER_LEASES_H_
