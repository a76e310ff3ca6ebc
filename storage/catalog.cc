// Jobs, checkpoints, journal and rosters: small rows, each written synced. What concerns layouts is in
// catalog_index.cc.

#include "storage/catalog.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/catalog.pb.h"
#include "storage/catalog_db.h"

namespace keepstep::storage {
namespace {

constexpr size_t kMaxJobBytes = 4096;

absl::Status CheckJob(absl::string_view job) {
  if (!job.empty() && job.size() <= kMaxJobBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a job's identity has 1 to ", kMaxJobBytes, " bytes, not ", job.size()));
}

std::string JournalKey(absl::string_view job, absl::string_view attempt) {
  std::string key;
  AppendText(job, key);
  key.append(attempt.data(), attempt.size());
  return key;
}

absl::Status Damaged(absl::string_view table) {
  return absl::DataLossError(absl::StrCat("catalog: a row of ", table, " cannot be read"));
}

template <typename Row>
bool Parse(absl::string_view value, Row& row) {
  return row.ParseFromArray(value.data(), static_cast<int>(value.size()));
}

}  // namespace

Catalog::Catalog(std::unique_ptr<Db> db) : db_(std::move(db)) {}
Catalog::~Catalog() = default;

absl::StatusOr<std::vector<std::string>> Catalog::ListJobs() {
  std::vector<std::string> jobs;
  absl::Status status = db_->Scan(kJobs, "", "", [&](absl::string_view key, absl::string_view) {
    jobs.emplace_back(key);
    return true;
  });
  if (!status.ok()) return status;
  return jobs;
}

absl::StatusOr<std::vector<CatalogCheckpoint>> Catalog::ListCheckpoints(absl::string_view job) {
  std::vector<CatalogCheckpoint> result;
  bool damaged = false;
  absl::Status status =
      db_->Scan(kCheckpoints, CheckpointsOf(job), "", [&](absl::string_view, absl::string_view value) {
        catalog::CheckpointRow row;
        damaged = !Parse(value, row);
        if (!damaged) result.push_back({std::move(*row.mutable_decision()), row.layout_id()});
        return !damaged;
      });
  if (!status.ok()) return status;
  if (damaged) return Damaged("checkpoints");
  // Keys order attempts by name; their numbers decide.
  std::stable_sort(result.begin(), result.end(), [](const CatalogCheckpoint& a, const CatalogCheckpoint& b) {
    if (a.decision.epoch() != b.decision.epoch()) return a.decision.epoch() < b.decision.epoch();
    if (a.decision.step() != b.decision.step()) return a.decision.step() < b.decision.step();
    return ParseAttempt(a.decision.attempt()) < ParseAttempt(b.decision.attempt());
  });
  return result;
}

absl::Status Catalog::PutJournal(const CatalogJournalRow& row) {
  absl::Status status = CheckJob(row.job);
  if (!status.ok()) return status;
  catalog::JournalRow stored;
  stored.set_job(row.job);
  stored.set_attempt(row.attempt);
  stored.set_step(row.step);
  stored.set_epoch(row.epoch);
  stored.set_collected(row.collected);
  CatalogBatch batch;
  batch.Put(kSaves, JournalKey(row.job, row.attempt), stored.SerializeAsString());
  return db_->Write(batch);
}

absl::Status Catalog::EraseJournal(absl::string_view job, absl::string_view attempt) {
  CatalogBatch batch;
  batch.Delete(kSaves, JournalKey(job, attempt));
  return db_->Write(batch);
}

absl::StatusOr<std::vector<CatalogJournalRow>> Catalog::Journal() {
  std::vector<CatalogJournalRow> rows;
  bool damaged = false;
  absl::Status status = db_->Scan(kSaves, "", "", [&](absl::string_view, absl::string_view value) {
    catalog::JournalRow row;
    damaged = !Parse(value, row);
    if (!damaged) rows.push_back({row.job(), row.attempt(), row.step(), row.epoch(), row.collected()});
    return !damaged;
  });
  if (!status.ok()) return status;
  if (damaged) return Damaged("saves");
  return rows;
}

absl::Status Catalog::PutRoster(absl::string_view job, const CatalogRoster& roster) {
  absl::Status status = CheckJob(job);
  if (!status.ok()) return status;
  catalog::RosterRow row;
  row.set_epoch(roster.epoch);
  row.set_world_size(roster.world_size);
  row.mutable_retention()->set_keep_last(roster.keep_last);
  row.mutable_retention()->set_keep_every(roster.keep_every);
  for (const CatalogRoster::Member& member : roster.members) {
    catalog::RosterRow::Member* stored = row.add_members();
    stored->set_rank(member.rank);
    stored->set_nonce(member.nonce.data(), member.nonce.size());
  }
  CatalogBatch batch;
  batch.Put(kRosters, std::string(job), row.SerializeAsString());
  batch.Put(kJobs, std::string(job), "");
  return db_->Write(batch);
}

absl::StatusOr<std::optional<CatalogRoster>> Catalog::Roster(absl::string_view job) {
  absl::StatusOr<std::string> value = db_->Get(kRosters, job);
  if (absl::IsNotFound(value.status())) return std::nullopt;
  if (!value.ok()) return value.status();
  catalog::RosterRow row;
  if (!Parse(*value, row)) return Damaged("rosters");
  CatalogRoster roster;
  roster.epoch = row.epoch();
  roster.world_size = row.world_size();
  roster.keep_last = row.retention().keep_last();
  roster.keep_every = row.retention().keep_every();
  for (const catalog::RosterRow::Member& stored : row.members()) {
    CatalogRoster::Member member;
    member.rank = stored.rank();
    if (stored.nonce().size() != member.nonce.size()) return Damaged("rosters");
    std::memcpy(member.nonce.data(), stored.nonce().data(), member.nonce.size());
    roster.members.push_back(member);
  }
  return roster;
}

}  // namespace keepstep::storage
