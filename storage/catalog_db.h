// The RocksDB beneath the catalog: column families, keys, opening and moving a damaged database aside.
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
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"
#include "storage/catalog.h"

namespace keepstep::storage {

enum CatalogFamily { kJobs, kCheckpoints, kLayouts, kLayoutIds, kSaves, kRosters, kNumCatalogFamilies };

struct Catalog::Db {
  ~Db();

  rocksdb::ColumnFamilyHandle* family(CatalogFamily which) const { return families[which]; }

  // Writes and syncs.
  absl::Status Write(rocksdb::WriteBatch& batch);
  // NOT_FOUND when there is no such row.
  absl::StatusOr<std::string> Get(CatalogFamily which, absl::string_view key) const;
  // Rows whose key begins with `prefix`, from `from` on, in order, until `row` returns false.
  absl::Status Scan(CatalogFamily which, absl::string_view prefix, absl::string_view from,
                    absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const;

  std::unique_ptr<rocksdb::DB> db;
  std::array<rocksdb::ColumnFamilyHandle*, kNumCatalogFamilies> families{};
  // Held by whoever reads rows to decide what to write: rows of checkpoints and layouts change together.
  std::mutex index_mutex;
};

absl::Status FromRocks(const rocksdb::Status& status);
inline rocksdb::Slice ToSlice(absl::string_view text) { return rocksdb::Slice(text.data(), text.size()); }

void AppendNumber(uint64_t value, std::string& key);        // 8 bytes, big-endian
void AppendText(absl::string_view text, std::string& key);  // length-prefixed

std::string CheckpointsOf(absl::string_view job);  // prefix of a job's checkpoints
std::string CheckpointKey(absl::string_view job, const v1::Decision& decision);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_CATALOG_DB_H_
