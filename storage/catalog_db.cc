// Opening: a database that another process holds, or a full disk, is reported; one that is damaged is moved
// aside, because the catalog can be rebuilt and a daemon that does not start saves nothing. RocksDB's default
// recovery would stop silently at damage in its log; this one accepts a torn tail alone.

#include "storage/catalog_db.h"

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "storage/attempt.h"

namespace keepstep::storage {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxMovedAside = 1000;
constexpr const char* kFamilyNames[kNumCatalogFamilies] = {"jobs",       "checkpoints", "layouts",
                                                           "layout_ids", "saves",       "rosters"};

rocksdb::DBOptions DbOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_open_files = 256;
  options.max_total_wal_size = uint64_t{64} << 20;
  options.keep_log_file_num = 4;
  options.max_log_file_size = size_t{8} << 20;
  return options;
}

absl::StatusOr<std::unique_ptr<Catalog::Db>> OpenDb(const std::string& directory, bool* damaged) {
  rocksdb::ColumnFamilyOptions family_options;
  family_options.write_buffer_size = size_t{16} << 20;
  std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, family_options}};
  for (const char* name : kFamilyNames) families.emplace_back(name, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(DbOptions(), directory, families, &handles, &raw);
  if (!status.ok()) {
    const bool locked = status.IsIOError() && absl::StrContains(status.ToString(), "LOCK");
    // A missing file of the database is damage; a busy, full or forbidden disk is not.
    *damaged = !locked && (!status.IsIOError() || absl::StrContains(status.ToString(), "No such file"));
    if (locked)
      return absl::UnavailableError(
          absl::StrCat(directory, ": another process has it open: ", status.ToString()));
    return FromRocks(status);
  }
  auto db = std::make_unique<Catalog::Db>();
  db->db.reset(raw);
  raw->DestroyColumnFamilyHandle(handles[0]);
  for (int i = 0; i < kNumCatalogFamilies; ++i) db->families[i] = handles[i + 1];
  return db;
}

absl::StatusOr<std::string> MoveAside(const std::string& directory) {
  for (int n = 1; n <= kMaxMovedAside; ++n) {
    const std::string target = absl::StrCat(directory, ".damaged-", n);
    std::error_code error;
    if (fs::exists(target, error)) continue;
    fs::rename(directory, target, error);
    if (!error) return target;
    return absl::UnavailableError(absl::StrCat(directory, ": cannot be moved aside: ", error.message()));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(directory, ": too many damaged copies beside it: delete some"));
}

// Reads every row once: damage is met here rather than in the middle of a save.
absl::Status ReadAll(const Catalog::Db& db) {
  for (int family = 0; family < kNumCatalogFamilies; ++family) {
    if (family == kLayouts) continue;  // large, and only asked for on demand
    absl::Status status =
        db.Scan(static_cast<CatalogFamily>(family), "", "", [](auto, auto) { return true; });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Catalog::Opened> Catalog::Open(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(directory, ": ", error.message()));
  Opened opened;
  bool damaged = false;
  absl::StatusOr<std::unique_ptr<Db>> db = OpenDb(directory, &damaged);
  if (db.ok()) {
    absl::Status status = ReadAll(**db);
    damaged = absl::IsDataLoss(status);
    if (!status.ok()) db = status;
  }
  if (damaged) {
    absl::StatusOr<std::string> moved_to = MoveAside(directory);
    if (!moved_to.ok()) return moved_to.status();
    opened.rebuilt = true;
    opened.moved_to = *moved_to;
    db = OpenDb(directory, &damaged);
  }
  if (!db.ok()) return db.status();
  opened.catalog.reset(new Catalog(*std::move(db)));
  return opened;
}

Catalog::Db::~Db() {
  for (rocksdb::ColumnFamilyHandle* handle : families) {
    if (handle != nullptr) db->DestroyColumnFamilyHandle(handle);
  }
}

absl::Status Catalog::Db::Write(rocksdb::WriteBatch& batch) {
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(db->Write(options, &batch));
}

absl::StatusOr<std::string> Catalog::Db::Get(CatalogFamily which, absl::string_view key) const {
  std::string value;
  absl::Status status = FromRocks(db->Get(rocksdb::ReadOptions(), family(which), ToSlice(key), &value));
  if (!status.ok()) return status;
  return value;
}

absl::Status Catalog::Db::Scan(CatalogFamily which, absl::string_view prefix, absl::string_view from,
                               absl::FunctionRef<bool(absl::string_view, absl::string_view)> row) const {
  std::unique_ptr<rocksdb::Iterator> iterator(db->NewIterator(rocksdb::ReadOptions(), family(which)));
  for (iterator->Seek(ToSlice(from < prefix ? prefix : from)); iterator->Valid(); iterator->Next()) {
    const absl::string_view key(iterator->key().data(), iterator->key().size());
    if (!absl::StartsWith(key, prefix)) break;
    if (!row(key, absl::string_view(iterator->value().data(), iterator->value().size()))) break;
  }
  return FromRocks(iterator->status());
}

absl::Status FromRocks(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("catalog: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::UnavailableError(message);
}

void AppendNumber(uint64_t value, std::string& key) {
  for (int shift = 56; shift >= 0; shift -= 8) key.push_back(static_cast<char>(value >> shift));
}

void AppendText(absl::string_view text, std::string& key) {
  const auto size = static_cast<uint32_t>(text.size());
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(size >> shift));
  key.append(text.data(), text.size());
}

std::string CheckpointsOf(absl::string_view job) {
  std::string key;
  AppendText(job, key);
  return key;
}

std::string CheckpointKey(absl::string_view job, const v1::Decision& decision) {
  std::string key = CheckpointsOf(job);
  AppendNumber(static_cast<uint64_t>(decision.epoch()), key);
  AppendNumber(static_cast<uint64_t>(decision.step()), key);
  AppendText(decision.attempt(), key);
  return key;
}

}  // namespace keepstep::storage
