// The RocksDB beneath the catalog: column families, keys, opening and moving a damaged database aside.
//
// RocksDB refuses every write after one that failed, or after its own work behind them has, until it is
// opened again. So a write that failed opens it again and is tried once more: what a full or failing disk
// costs is that write at most, not the daemon's every save from then on. On a full disk it gets the room of a
// reserve (reserve.h): the catalog can be opened, and the saves that its journal names be ended, which is
// what gives room back. Without a reserve it is opened to be read, and each write tries again.
//
// Keys. Texts that end a key or are scanned whole are length-prefixed (u32, big-endian); numbers are 8 bytes
// big-endian, so that byte order is numeric order.
//   jobs         job                                              → empty
//   checkpoints  len job | epoch | step | len attempt             → CheckpointRow
//   layouts      len layout id | fqn 0x00 | box (n, origin, shape) | part, extent → ShardRow
//                (a name has no control characters, so names scan by prefix and one name's rows stay
//                together)
//   layout_ids   layout id                                        → empty; written in the batch of its rows
//   saves        len job | attempt                                → JournalRow
//   rosters      job                                              → RosterRow

#ifndef KEEPSTEP_STORAGE_CATALOG_DB_H_
#define KEEPSTEP_STORAGE_CATALOG_DB_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocksdb/db.h"
#include "storage/catalog.h"
#include "storage/file_tree.h"
#include "storage/reserve.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

enum CatalogFamily { kJobs, kCheckpoints, kLayouts, kLayoutIds, kSaves, kRosters, kNumCatalogFamilies };

// Rows to write together.
class CatalogBatch {
 public:
  void Put(CatalogFamily family, std::string key, std::string value);
  void Delete(CatalogFamily family, std::string key);
  void DeleteRange(CatalogFamily family, std::string begin, std::string end);  // without `end`

  bool empty() const { return rows_.empty(); }
  size_t size_bytes() const { return size_bytes_; }
  void Clear();

 private:
  friend struct Catalog::Db;
  enum class Kind : uint8_t { kPut, kDelete, kDeleteRange };
  struct Row {
    Kind kind;
    CatalogFamily family;
    std::string key, value;
  };
  void Add(Row row);

  std::vector<Row> rows_;
  size_t size_bytes_ = 0;
};

struct Catalog::Db {
  // `opened`: the directory of that name.
  Db(std::string directory, UniqueFd opened);
  ~Db();

  // `*damaged`: it is there, and cannot be read.
  absl::Status Open(bool* damaged);

  // Writes and syncs; what fails is tried once more with the database opened again.
  absl::Status Write(const CatalogBatch& batch);
  // NOT_FOUND when there is no such row.
  absl::StatusOr<std::string> Get(CatalogFamily which, absl::string_view key) const;
  // Rows whose key begins with `prefix`, from `from` on, in order, until `row` returns false. `row` must not
  // call the database.
  absl::Status Scan(CatalogFamily which, absl::string_view prefix, absl::string_view from,
                    absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const;

  // Held by whoever reads rows to decide what to write: rows of checkpoints and layouts change together.
  std::mutex index_mutex;

 private:
  void Close();
  enum class How : uint8_t { kUsual, kInLittleRoom, kToRead };
  absl::Status OpenDatabase(How how, bool* damaged);
  absl::Status OpenAgain();
  absl::Status TryWrite(const CatalogBatch& batch);

  const std::string directory;
  const FileTree tree;
  Reserve reserve;
  // Shared by whoever uses the database, alone by whoever opens it again; null while that has failed.
  mutable std::shared_mutex open_mutex;
  std::unique_ptr<rocksdb::DB> db;
  std::array<rocksdb::ColumnFamilyHandle*, kNumCatalogFamilies> families{};
  std::atomic<bool> write_failed{false};  // or it is open to be read alone
};

absl::Status FromRocks(const rocksdb::Status& status);
inline rocksdb::Slice ToSlice(absl::string_view text) { return rocksdb::Slice(text.data(), text.size()); }

void AppendNumber(uint64_t value, std::string& key);        // 8 bytes, big-endian
void AppendText(absl::string_view text, std::string& key);  // length-prefixed

std::string CheckpointsOf(absl::string_view job);  // prefix of a job's checkpoints
std::string CheckpointKey(absl::string_view job, const v1::Decision& decision);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_CATALOG_DB_H_
