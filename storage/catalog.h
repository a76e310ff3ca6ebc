// Index of what is stored, and this daemon's memory of what it had in flight; RocksDB beneath.
//
// Never the only copy: checkpoints and layouts are rebuilt from storage (Reindex), and where they disagree
// the decision on storage wins (Reconcile). Journal and rosters are hints that storage can do without: a lost
// journal leaves attempts undecided until an epoch is claimed, a lost roster counts every rank as present.
//
// Shard rows are keyed by layout and written once: blobs are packed in plan order, so offsets repeat from
// save to save. A layout's id is its fingerprint and a digest of where its extents lie; a save that was
// packed otherwise (a rewritten blob) gets its own.
//
// Thread-safe. Calls block for the local disk. Errors: DATA_LOSS (a damaged database), RESOURCE_EXHAUSTED
// (disk full), UNAVAILABLE.

#ifndef KEEPSTEP_STORAGE_CATALOG_H_
#define KEEPSTEP_STORAGE_CATALOG_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/storage.pb.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

// `job` below is the job's identity: the path of its directory as the daemon resolved it, 1..4096 bytes.

struct CatalogJournalRow {
  std::string job;
  std::string attempt;
  int64_t step = 0;
  int64_t epoch = 0;
  bool collected = false;  // not in flight: committed, then deleted by retention
};

struct CatalogRoster {
  struct Member {
    int32_t rank = 0;
    std::array<uint8_t, 16> nonce{};
  };
  int64_t epoch = 0;
  int32_t world_size = 0;
  std::vector<Member> members;
  int64_t keep_last = 0, keep_every = 0;  // the run's retention policy
};

struct CatalogCheckpoint {
  v1::Decision decision;
  std::string layout_id;
};

// One extent of one tensor, in every checkpoint of its layout.
struct CatalogShard {
  v1::TensorMeta meta;
  v1::Box box;
  uint32_t part = 0;
  std::string blob;  // name in the attempt's directory
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;
};

struct CatalogPage {
  std::vector<CatalogShard> shards;  // by name, then box
  std::string next_token;            // empty: that was all
};

struct ReindexCounts {
  int64_t checkpoints = 0;
  int64_t extents = 0;
};

class Catalog {
 public:
  struct Opened;

  // Opens or makes the database in `directory` (made if missing). One that cannot be read is moved to
  // `<directory>.damaged-<n>` and replaced by an empty one. UNAVAILABLE when another process has it open;
  // other errors are the disk's.
  static absl::StatusOr<Opened> Open(const std::string& directory);

  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // ---- checkpoints ----
  // Durable when it returns. Idempotent. REQUIRES: `decision` is a durable COMMIT, `parts` are those it
  // lists.
  absl::Status RecordCommit(absl::string_view job, const v1::Decision& decision,
                            absl::Span<const v1::Part> parts);
  // After its deletion; durable when it returns. Layouts that no checkpoint uses any more go too.
  absl::Status RecordGone(absl::string_view job, int64_t step, absl::string_view attempt);
  absl::StatusOr<std::vector<std::string>> ListJobs();
  // In the order of epochs, then steps, then attempts.
  absl::StatusOr<std::vector<CatalogCheckpoint>> ListCheckpoints(absl::string_view job);
  // Shards whose tensor's name (or alias) starts with `fqn_prefix`. `limit` 1..10000; `token` empty or a
  // page's next_token.
  absl::StatusOr<CatalogPage> QueryPrefix(absl::string_view layout_id, absl::string_view fqn_prefix,
                                          int limit, absl::string_view token);

  // ---- rebuilding ----
  // Drops the job's checkpoints and indexes storage again.
  absl::StatusOr<ReindexCounts> Reindex(absl::string_view job, BlobStore& store);
  // Makes the job's checkpoints those that storage holds; returns how many rows were added or dropped.
  absl::StatusOr<int64_t> Reconcile(absl::string_view job, BlobStore& store);

  // ---- this daemon's saves in flight and worlds; durable when they return ----
  absl::Status PutJournal(const CatalogJournalRow& row);
  absl::Status EraseJournal(absl::string_view job, absl::string_view attempt);
  absl::StatusOr<std::vector<CatalogJournalRow>> Journal();  // of all jobs
  absl::Status PutRoster(absl::string_view job, const CatalogRoster& roster);
  absl::StatusOr<std::optional<CatalogRoster>> Roster(absl::string_view job);

  struct Db;  // catalog_db.h

 private:
  explicit Catalog(std::unique_ptr<Db> db);

  absl::Status DropRows(const std::vector<std::string>& keys);
  // Records one stored checkpoint and returns its extents; nullopt for one that cannot be loaded, which is
  // not listed.
  absl::StatusOr<std::optional<int64_t>> Index(absl::string_view job, BlobStore& store,
                                               const v1::Decision& decision);

  std::unique_ptr<Db> db_;
};

struct Catalog::Opened {
  std::unique_ptr<Catalog> catalog;
  bool rebuilt = false;  // the old database was damaged: reindex, and trust no roster
  std::string moved_to;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_CATALOG_H_
