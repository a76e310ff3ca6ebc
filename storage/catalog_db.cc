// Opening: a database that another process holds, or a full disk, is reported; one that is damaged is moved
// aside, because the catalog can be rebuilt and a daemon that does not start saves nothing. RocksDB's default
// recovery would stop silently at damage in its log; this one accepts a torn tail alone.

#include "storage/catalog_db.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rocksdb/env.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"
#include "storage/attempt.h"
#include "storage/disk_full.h"

namespace keepstep::storage {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxMovedAside = 1000;
// Damage stays damage; one call that failed can look like it, and would cost the journal.
constexpr int kTriesBeforeDamage = 2;
constexpr char kReserveName[] = "RESERVE";
constexpr int64_t kCatalogReserveBytes = int64_t{1} << 20;
constexpr const char* kFamilyNames[kNumCatalogFamilies] = {"jobs",       "checkpoints", "layouts",
                                                           "layout_ids", "saves",       "rosters"};

// RocksDB asserts, which ends the process, when a second line of its own log cannot be written to a full
// disk. What went wrong comes as a status; nobody reads that log.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::DBOptions DbOptions() {
  rocksdb::DBOptions options;
  options.info_log = std::make_shared<NoLog>();
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_open_files = 256;
  options.max_total_wal_size = uint64_t{64} << 20;
  return options;
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

absl::Status NotOpen() {
  return absl::UnavailableError("catalog: it could not be opened again after a write that failed");
}

absl::StatusOr<std::unique_ptr<Catalog::Db>> OpenDirectory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(directory, ": ", error.message()));
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(IoSide::kRead, errno, "open", directory);
  return std::make_unique<Catalog::Db>(directory, std::move(fd));
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
  Opened opened;
  absl::StatusOr<std::unique_ptr<Db>> db = nullptr;
  absl::Status status;
  bool damaged = true;
  for (int tries = 0; damaged && tries < kTriesBeforeDamage; ++tries) {
    *db = nullptr;  // and its lock
    db = OpenDirectory(directory);
    if (!db.ok()) return db.status();
    damaged = false;
    status = (*db)->Open(&damaged);
    if (!status.ok()) continue;
    status = ReadAll(**db);
    damaged = absl::IsDataLoss(status);
  }
  if (damaged) {
    *db = nullptr;
    absl::StatusOr<std::string> moved_to = MoveAside(directory);
    if (!moved_to.ok()) return moved_to.status();
    opened.rebuilt = true;
    opened.moved_to = *moved_to;
    db = OpenDirectory(directory);
    if (!db.ok()) return db.status();
    status = (*db)->Open(&damaged);
  }
  if (!status.ok()) return status;
  opened.catalog.reset(new Catalog(*std::move(db)));
  return opened;
}

Catalog::Db::Db(std::string directory, UniqueFd opened)
    : directory(std::move(directory)),
      tree(std::move(opened), nullptr),
      reserve(&tree, BlobPath::Parse(kReserveName).value(), kCatalogReserveBytes) {}

Catalog::Db::~Db() { Close(); }

void Catalog::Db::Close() {
  for (rocksdb::ColumnFamilyHandle*& handle : families) {
    if (handle != nullptr) db->DestroyColumnFamilyHandle(handle);
    handle = nullptr;
  }
  db = nullptr;
}

absl::Status Catalog::Db::Open(bool* damaged) {
  absl::Status status = OpenDatabase(How::kUsual, damaged);
  if (IsDiskFull(status) && reserve.GiveUp()) status = OpenDatabase(How::kInLittleRoom, damaged);
  write_failed = !status.ok();
  return IsDiskFull(status) && OpenDatabase(How::kToRead, damaged).ok() ? absl::OkStatus() : status;
}

absl::Status Catalog::Db::OpenDatabase(How how, bool* damaged) {
  rocksdb::DBOptions options = DbOptions();
  options.avoid_flush_during_recovery = how == How::kInLittleRoom;  // a table may take more than the reserve
  rocksdb::ColumnFamilyOptions family_options;
  family_options.write_buffer_size = size_t{16} << 20;
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = {
      {rocksdb::kDefaultColumnFamilyName, family_options}};
  for (const char* name : kFamilyNames) descriptors.emplace_back(name, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status status =
      how == How::kToRead ? rocksdb::DB::OpenForReadOnly(options, directory, descriptors, &handles, &raw)
                          : rocksdb::DB::Open(options, directory, descriptors, &handles, &raw);
  if (!status.ok()) {
    const bool locked = status.IsIOError() && absl::StrContains(status.ToString(), "LOCK");
    // A missing file of the database is damage; a busy, full or forbidden disk is not.
    *damaged = !locked && (!status.IsIOError() || absl::StrContains(status.ToString(), "No such file"));
    if (locked)
      return absl::UnavailableError(
          absl::StrCat(directory, ": another process has it open: ", status.ToString()));
    return FromRocks(status);
  }
  db.reset(raw);
  raw->DestroyColumnFamilyHandle(handles[0]);
  for (int i = 0; i < kNumCatalogFamilies; ++i) families[i] = handles[i + 1];
  return absl::OkStatus();
}

// What a failed flush left is read from the log and written anew: nothing that was reported is lost by it.
absl::Status Catalog::Db::OpenAgain() {
  std::lock_guard<std::shared_mutex> lock(open_mutex);
  if (!write_failed) return absl::OkStatus();  // somebody else has
  Close();
  bool damaged = false;
  absl::Status status = Open(&damaged);
  if (!status.ok()) return status;
  return write_failed ? DiskFull("catalog: no space left on device") : absl::OkStatus();
}

absl::Status Catalog::Db::TryWrite(const CatalogBatch& batch) {
  std::shared_lock<std::shared_mutex> lock(open_mutex);
  if (db == nullptr) return NotOpen();
  rocksdb::WriteBatch rows;
  for (const CatalogBatch::Row& row : batch.rows_) {
    rocksdb::ColumnFamilyHandle* const family = families[row.family];
    switch (row.kind) {
      case CatalogBatch::Kind::kPut: rows.Put(family, row.key, row.value); break;
      case CatalogBatch::Kind::kDelete: rows.Delete(family, row.key); break;
      case CatalogBatch::Kind::kDeleteRange: rows.DeleteRange(family, row.key, row.value); break;
    }
  }
  rocksdb::WriteOptions options;
  options.sync = true;
  absl::Status status = FromRocks(db->Write(options, &rows));
  if (!status.ok()) write_failed = true;
  return status;
}

absl::Status Catalog::Db::Write(const CatalogBatch& batch) {
  if (write_failed) {
    if (absl::Status status = OpenAgain(); !status.ok()) return status;
  }
  absl::Status status = TryWrite(batch);
  if (!status.ok()) {
    // What failed may have been work behind earlier writes, and on a full disk the reserve gives room.
    if (IsDiskFull(status) && !reserve.GiveUp()) return status;
    if (!OpenAgain().ok()) return status;
    status = TryWrite(batch);
  }
  if (status.ok()) reserve.Keep();
  return status;
}

absl::StatusOr<std::string> Catalog::Db::Get(CatalogFamily which, absl::string_view key) const {
  std::shared_lock<std::shared_mutex> lock(open_mutex);
  if (db == nullptr) return NotOpen();
  std::string value;
  absl::Status status = FromRocks(db->Get(rocksdb::ReadOptions(), families[which], ToSlice(key), &value));
  if (!status.ok()) return status;
  return value;
}

absl::Status Catalog::Db::Scan(CatalogFamily which, absl::string_view prefix, absl::string_view from,
                               absl::FunctionRef<bool(absl::string_view, absl::string_view)> row) const {
  std::shared_lock<std::shared_mutex> lock(open_mutex);
  if (db == nullptr) return NotOpen();
  std::unique_ptr<rocksdb::Iterator> iterator(db->NewIterator(rocksdb::ReadOptions(), families[which]));
  for (iterator->Seek(ToSlice(from < prefix ? prefix : from)); iterator->Valid(); iterator->Next()) {
    const absl::string_view key(iterator->key().data(), iterator->key().size());
    if (!absl::StartsWith(key, prefix)) break;
    if (!row(key, absl::string_view(iterator->value().data(), iterator->value().size()))) break;
  }
  return FromRocks(iterator->status());
}

void CatalogBatch::Put(CatalogFamily family, std::string key, std::string value) {
  Add({Kind::kPut, family, std::move(key), std::move(value)});
}

void CatalogBatch::Delete(CatalogFamily family, std::string key) {
  Add({Kind::kDelete, family, std::move(key), {}});
}

void CatalogBatch::DeleteRange(CatalogFamily family, std::string begin, std::string end) {
  Add({Kind::kDeleteRange, family, std::move(begin), std::move(end)});
}

void CatalogBatch::Add(Row row) {
  size_bytes_ += row.key.size() + row.value.size();
  rows_.push_back(std::move(row));
}

void CatalogBatch::Clear() {
  rows_.clear();
  size_bytes_ = 0;
}

absl::Status FromRocks(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("catalog: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsNoSpace() || absl::StrContains(message, strerror(EDQUOT))) return DiskFull(message);
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
