// Layouts: where every tensor's extents lie, written once for all checkpoints that were packed alike; and
// making the index what storage says.
//
// RecordCommit:
//   1. The layout's id from its fingerprint and the places of all extents.
//   2. Its rows, in bounded batches, then the id, unless that is there already.
//   3. The checkpoint's row.
// All synced; a crash between leaves rows that the next commit of that layout writes again.

#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/catalog.pb.h"
#include "storage/catalog_db.h"
#include "storage/checkpoint_reader.h"
#include "storage/digest.h"

namespace keepstep::storage {
namespace {

constexpr size_t kMaxBatchBytes = size_t{4} << 20;
constexpr int kMaxPageSize = 10000;

void AppendBox(const v1::Box& box, std::string& key) {
  AppendNumber(static_cast<uint64_t>(box.shape_size()), key);
  for (int64_t origin : box.origin()) AppendNumber(static_cast<uint64_t>(origin), key);
  for (int64_t extent : box.shape()) AppendNumber(static_cast<uint64_t>(extent), key);
}

// Where one part's extents lie, as bytes to digest: equal iff its rows would be equal.
void AppendPlaces(const v1::Part& part, std::string& bytes) {
  AppendNumber(part.index(), bytes);
  for (const v1::Blob& blob : part.blobs()) AppendText(blob.name(), bytes);
  AppendNumber(static_cast<uint64_t>(part.tensors_size()), bytes);
  for (const v1::StoredTensor& tensor : part.tensors()) AppendText(tensor.SerializeAsString(), bytes);
  for (const v1::Extent& extent : part.extents()) {
    AppendNumber(extent.tensor(), bytes);
    AppendBox(extent.box(), bytes);
    AppendNumber(extent.blob(), bytes);
    AppendNumber(static_cast<uint64_t>(extent.offset_bytes()), bytes);
  }
}

std::string LayoutId(const v1::Decision& decision, absl::Span<const v1::Part> parts) {
  std::string digests;
  for (const v1::Part& part : parts) {
    std::string places;
    AppendPlaces(part, places);
    digests += DigestOf(absl::string_view(places)).ToBytes();
  }
  return absl::StrCat(decision.layout(), "-",
                      absl::BytesToHexString(DigestOf(absl::string_view(digests)).ToBytes()));
}

std::string ShardKey(absl::string_view layout_id, absl::string_view fqn, const v1::Part& part, int extent) {
  std::string key;
  AppendText(layout_id, key);
  key.append(fqn.data(), fqn.size());
  key.push_back('\0');
  AppendBox(part.extents(extent).box(), key);
  AppendNumber(part.index(), key);
  AppendNumber(static_cast<uint64_t>(extent), key);
  return key;
}

absl::Status PutShards(Catalog::Db& db, absl::string_view layout_id, const v1::Part& part,
                       CatalogBatch& batch) {
  for (int i = 0; i < part.extents_size(); ++i) {
    const v1::Extent& extent = part.extents(i);
    const v1::StoredTensor& tensor = part.tensors(static_cast<int>(extent.tensor()));
    catalog::ShardRow row;
    *row.mutable_meta() = tensor.meta();
    *row.mutable_box() = extent.box();
    row.set_part(part.index());
    row.set_blob(part.blobs(static_cast<int>(extent.blob())).name());
    row.set_offset_bytes(extent.offset_bytes());
    row.set_size_bytes(extent.size_bytes());
    batch.Put(kLayouts, ShardKey(layout_id, tensor.meta().fqn(), part, i), row.SerializeAsString());
    for (const std::string& alias : tensor.aliases()) {
      row.mutable_meta()->set_fqn(alias);
      batch.Put(kLayouts, ShardKey(layout_id, alias, part, i), row.SerializeAsString());
    }
    if (batch.size_bytes() < kMaxBatchBytes) continue;
    absl::Status status = db.Write(batch);
    if (!status.ok()) return status;
    batch.Clear();
  }
  return absl::OkStatus();
}

// REQUIRES: index_mutex held.
absl::Status PutLayout(Catalog::Db& db, const std::string& layout_id, absl::Span<const v1::Part> parts) {
  absl::StatusOr<std::string> known = db.Get(kLayoutIds, layout_id);
  if (!absl::IsNotFound(known.status())) return known.status();
  CatalogBatch batch;
  for (const v1::Part& part : parts) {
    absl::Status status = PutShards(db, layout_id, part, batch);
    if (!status.ok()) return status;
  }
  batch.Put(kLayoutIds, layout_id, "");
  return db.Write(batch);
}

// Layouts that some checkpoint of any job uses.
absl::StatusOr<std::set<std::string>> UsedLayouts(const Catalog::Db& db) {
  std::set<std::string> used;
  absl::Status status = db.Scan(kCheckpoints, "", "", [&](absl::string_view, absl::string_view value) {
    catalog::CheckpointRow row;
    if (row.ParseFromArray(value.data(), static_cast<int>(value.size()))) used.insert(row.layout_id());
    return true;
  });
  if (!status.ok()) return status;
  return used;
}

// REQUIRES: index_mutex held. Deletes the ids first: rows without an id are written again when they are
// needed.
absl::Status DropUnusedLayouts(Catalog::Db& db) {
  absl::StatusOr<std::set<std::string>> used = UsedLayouts(db);
  if (!used.ok()) return used.status();
  CatalogBatch batch;
  absl::Status status = db.Scan(kLayoutIds, "", "", [&](absl::string_view id, absl::string_view) {
    if (used->count(std::string(id)) != 0) return true;
    std::string begin;
    AppendText(id, begin);
    std::string end = begin;
    end.push_back('\xff');  // no name begins with it: it is not UTF-8
    batch.Delete(kLayoutIds, std::string(id));
    batch.DeleteRange(kLayouts, begin, end);
    return true;
  });
  if (!status.ok()) return status;
  return batch.empty() ? absl::OkStatus() : db.Write(batch);
}

absl::Status Put(Catalog::Db& db, absl::string_view job, const v1::Decision& decision,
                 absl::Span<const v1::Part> parts) {
  catalog::CheckpointRow row;
  *row.mutable_decision() = decision;
  row.set_layout_id(LayoutId(decision, parts));
  absl::Status status = PutLayout(db, row.layout_id(), parts);
  if (!status.ok()) return status;
  CatalogBatch batch;
  batch.Put(kJobs, std::string(job), "");
  batch.Put(kCheckpoints, CheckpointKey(job, decision), row.SerializeAsString());
  return db.Write(batch);
}

// The keys of a job's rows: those that storage must confirm.
absl::StatusOr<std::map<std::string, std::string>> RowsOf(const Catalog::Db& db, absl::string_view job) {
  std::map<std::string, std::string> rows;
  absl::Status status =
      db.Scan(kCheckpoints, CheckpointsOf(job), "", [&](absl::string_view key, absl::string_view value) {
        rows.emplace(std::string(key), std::string(value));
        return true;
      });
  if (!status.ok()) return status;
  return rows;
}

// Of rows under one key only the decision's own bytes can differ; unreadable rows differ from everything.
bool SameDecision(const std::string& value, const v1::Decision& decision) {
  catalog::CheckpointRow row;
  if (!row.ParseFromString(value) || row.decision().parts_size() != decision.parts_size()) return false;
  for (int i = 0; i < decision.parts_size(); ++i) {
    if (row.decision().parts(i).digest() != decision.parts(i).digest()) return false;
  }
  return row.decision().kind() == v1::Decision::COMMIT;
}

}  // namespace

absl::Status Catalog::RecordCommit(absl::string_view job, const v1::Decision& decision,
                                   absl::Span<const v1::Part> parts) {
  if (job.empty() || decision.kind() != v1::Decision::COMMIT) {
    return absl::InvalidArgumentError("the catalog records commits of named jobs");
  }
  std::lock_guard<std::mutex> lock(db_->index_mutex);
  return Put(*db_, job, decision, parts);
}

absl::Status Catalog::RecordGone(absl::string_view job, int64_t step, absl::string_view attempt) {
  const std::optional<AttemptId> id = ParseAttempt(attempt);
  if (!id) return absl::InvalidArgumentError(absl::StrCat(attempt, " is no attempt"));
  v1::Decision gone;
  gone.set_epoch(id->epoch);
  gone.set_step(step);
  gone.set_attempt(std::string(attempt));
  std::lock_guard<std::mutex> lock(db_->index_mutex);
  CatalogBatch batch;
  batch.Delete(kCheckpoints, CheckpointKey(job, gone));
  absl::Status status = db_->Write(batch);
  return status.ok() ? DropUnusedLayouts(*db_) : status;
}

absl::StatusOr<CatalogPage> Catalog::QueryPrefix(absl::string_view layout_id, absl::string_view fqn_prefix,
                                                 int limit, absl::string_view token) {
  if (limit < 1 || limit > kMaxPageSize) {
    return absl::InvalidArgumentError(absl::StrCat("a page has 1 to ", kMaxPageSize, " rows, not ", limit));
  }
  std::string prefix;
  AppendText(layout_id, prefix);
  prefix.append(fqn_prefix.data(), fqn_prefix.size());
  const std::string from = absl::HexStringToBytes(token);
  if (absl::BytesToHexString(from) != token ||
      (!from.empty() && from.compare(0, prefix.size(), prefix) != 0)) {
    return absl::InvalidArgumentError("the page token is not one of this query");
  }
  CatalogPage page;
  bool damaged = false;
  absl::Status status =
      db_->Scan(kLayouts, prefix, from, [&](absl::string_view key, absl::string_view value) {
        if (static_cast<int>(page.shards.size()) == limit) {
          page.next_token = absl::BytesToHexString(key);
          return false;
        }
        catalog::ShardRow row;
        damaged = !row.ParseFromArray(value.data(), static_cast<int>(value.size()));
        if (damaged) return false;
        page.shards.push_back({std::move(*row.mutable_meta()), std::move(*row.mutable_box()), row.part(),
                               row.blob(), row.offset_bytes(), row.size_bytes()});
        return true;
      });
  if (!status.ok()) return status;
  if (damaged) return absl::DataLossError("catalog: a row of layouts cannot be read");
  return page;
}

absl::Status Catalog::DropRows(const std::vector<std::string>& keys) {
  CatalogBatch batch;
  for (const std::string& key : keys) batch.Delete(kCheckpoints, key);
  std::lock_guard<std::mutex> lock(db_->index_mutex);
  absl::Status status = db_->Write(batch);
  return status.ok() ? DropUnusedLayouts(*db_) : status;
}

absl::StatusOr<std::optional<int64_t>> Catalog::Index(absl::string_view job, BlobStore& store,
                                                      const v1::Decision& decision) {
  absl::StatusOr<Manifest> manifest = LoadManifest(store, decision.step(), *ParseAttempt(decision.attempt()));
  if (absl::IsNotFound(manifest.status()) || absl::IsDataLoss(manifest.status())) return std::nullopt;
  if (!manifest.ok()) return manifest.status();
  absl::Status status = RecordCommit(job, manifest->decision, manifest->parts);
  if (!status.ok()) return status;
  int64_t extents = 0;
  for (const v1::Part& part : manifest->parts) extents += part.extents_size();
  return extents;
}

absl::StatusOr<ReindexCounts> Catalog::Reindex(absl::string_view job, BlobStore& store) {
  absl::StatusOr<std::map<std::string, std::string>> rows = RowsOf(*db_, job);
  if (!rows.ok()) return rows.status();
  std::vector<std::string> keys;
  for (const auto& [key, value] : *rows) keys.push_back(key);
  absl::Status status = DropRows(keys);
  if (!status.ok()) return status;
  absl::StatusOr<CheckpointList> stored = storage::ListCheckpoints(store);
  if (!stored.ok()) return stored.status();
  ReindexCounts counts;
  for (const v1::Decision& decision : stored->committed) {
    absl::StatusOr<std::optional<int64_t>> extents = Index(job, store, decision);
    if (!extents.ok()) return extents.status();
    if (!extents->has_value()) continue;
    ++counts.checkpoints;
    counts.extents += **extents;
  }
  return counts;
}

absl::StatusOr<int64_t> Catalog::Reconcile(absl::string_view job, BlobStore& store) {
  // Rows first: what is committed while storage is listed must not look like a row without a decision.
  absl::StatusOr<std::map<std::string, std::string>> rows = RowsOf(*db_, job);
  if (!rows.ok()) return rows.status();
  absl::StatusOr<CheckpointList> stored = storage::ListCheckpoints(store);
  if (!stored.ok()) return stored.status();
  int64_t changes = 0;
  for (const v1::Decision& decision : stored->committed) {
    const auto row = rows->find(CheckpointKey(job, decision));
    if (row != rows->end() && SameDecision(row->second, decision)) {
      rows->erase(row);
      continue;
    }
    absl::StatusOr<std::optional<int64_t>> extents = Index(job, store, decision);
    if (!extents.ok()) return extents.status();
    if (!extents->has_value()) continue;
    if (row != rows->end()) rows->erase(row);
    ++changes;
  }
  std::vector<std::string> keys;
  for (const auto& [key, value] : *rows) keys.push_back(key);
  if (keys.empty()) return changes;
  absl::Status status = DropRows(keys);
  if (!status.ok()) return status;
  return changes + static_cast<int64_t>(keys.size());
}

}  // namespace keepstep::storage
