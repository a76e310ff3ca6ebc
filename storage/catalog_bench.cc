// What the catalog costs at the size of a large job's layout.
//
//   bazel run //storage:catalog_bench -- --directory DIR [--shards N] [--queries N]
//
// One checkpoint of N shards (100 to a tensor, in 8 parts, as 8 nodes would write them) is indexed from its
// records, saved a second time in the same layout, and asked for tensors by name. Rows are counted in the
// database itself, by RocksDB's own reader. Prints one JSON object; times are seconds, queries' latencies
// microseconds.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rocksdb/db.h"
#include "storage/attempt.h"
#include "storage/catalog.h"
#include "storage/commit.h"
#include "storage/digest.h"
#include "storage/memory_store.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kJob[] = "/ckpt/large";
constexpr int kParts = 8, kShardsOfATensor = 100;
constexpr int64_t kRows = 64, kColumns = 4096, kExtentBytes = kRows * kColumns * 4;

[[noreturn]] void Die(absl::string_view what, const absl::Status& status) {
  std::fprintf(stderr, "catalog_bench: %s: %s\n", std::string(what).c_str(), status.ToString().c_str());
  std::exit(1);
}

void Require(absl::string_view what, const absl::Status& status) {
  if (!status.ok()) Die(what, status);
}

double Since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string TensorName(int64_t tensor) { return absl::StrFormat("model.layers.%05d.mlp.weight", tensor); }

v1::Part MakePart(const AttemptId& attempt, int64_t step, int index, int64_t tensors) {
  v1::Part part;
  part.set_format_version(kRecordVersion);
  part.set_attempt(AttemptName(attempt));
  part.set_index(index);
  part.set_count(kParts);
  v1::Decision& intent = *part.mutable_intent();
  intent.set_format_version(kRecordVersion);
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(step);
  intent.set_attempt(AttemptName(attempt));
  intent.set_epoch(attempt.epoch);
  intent.set_layout("bench");
  intent.set_world_size(kParts);
  v1::Blob* blob = part.add_blobs();
  blob->set_name(BlobName(reshard::Component::kModel, index, kParts));
  blob->set_header_bytes(kExtentBytes);
  int64_t at = kExtentBytes;
  for (int64_t tensor = index; tensor < tensors; tensor += kParts) {
    v1::TensorMeta* meta = part.add_tensors()->mutable_meta();
    meta->set_fqn(TensorName(tensor));
    meta->set_dtype("F32");
    meta->add_shape(kShardsOfATensor * kRows);
    meta->add_shape(kColumns);
    for (int64_t shard = 0; shard < kShardsOfATensor; ++shard) {
      v1::Extent* extent = part.add_extents();
      extent->set_tensor(static_cast<uint32_t>(part.tensors_size() - 1));
      extent->mutable_box()->add_origin(shard * kRows);
      extent->mutable_box()->add_origin(0);
      extent->mutable_box()->add_shape(kRows);
      extent->mutable_box()->add_shape(kColumns);
      extent->set_offset_bytes(at);
      extent->set_size_bytes(kExtentBytes);
      const std::string blocks(16, '\2');
      extent->set_digest(DigestOf(absl::string_view(blocks)).ToBytes());
      extent->set_block_digests(blocks);
      at += kExtentBytes;
    }
  }
  blob->set_size_bytes(at);
  blob->set_header_digest(std::string(16, '\3'));
  return part;
}

// Records alone: the catalog never looks at a blob, and those of a layout of this size fit no memory.
void Commit(BlobStore& store, int64_t step, int64_t tensors) {
  const AttemptId attempt{.epoch = 1, .counter = step, .random = 7};
  v1::Decision decision;
  for (int index = 0; index < kParts; ++index) {
    const v1::Part part = MakePart(attempt, step, index, tensors);
    const std::string bytes = EncodePart(part);
    if (index == 0) decision = part.intent();
    v1::PartRef* ref = decision.add_parts();
    ref->set_name(PartName(index));
    ref->set_size_bytes(static_cast<int64_t>(bytes.size()));
    ref->set_digest(DigestOf(absl::string_view(bytes)).ToBytes());
    Require("part", PublishPart(store, step, part).status());
  }
  const auto slot = BlobPath::Parse(DecisionPath(step, AttemptName(attempt)));
  Require("path", slot.status());
  Require("decision", store.PublishExclusive(*slot, EncodeDecision(decision)));
}

int64_t CountRows(const std::string& directory) {
  std::vector<std::string> names;
  if (!rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), directory, &names).ok()) std::exit(1);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* opened = nullptr;
  if (!rocksdb::DB::OpenForReadOnly(rocksdb::DBOptions(), directory, families, &handles, &opened).ok())
    std::exit(1);
  const std::unique_ptr<rocksdb::DB> db(opened);
  int64_t rows = 0;
  for (rocksdb::ColumnFamilyHandle* family : handles) {
    const std::unique_ptr<rocksdb::Iterator> row(db->NewIterator(rocksdb::ReadOptions(), family));
    for (row->SeekToFirst(); row->Valid(); row->Next()) ++rows;
  }
  for (rocksdb::ColumnFamilyHandle* family : handles) (void)db->DestroyColumnFamilyHandle(family);
  return rows;
}

std::unique_ptr<Catalog> Open(const std::string& directory) {
  absl::StatusOr<Catalog::Opened> opened = Catalog::Open(directory);
  Require("open", opened.status());
  return std::move(opened->catalog);
}

std::vector<double> QueryMicroseconds(Catalog& catalog, int64_t tensors, int64_t queries) {
  const auto rows = catalog.ListCheckpoints(kJob);
  Require("list", rows.status());
  const std::string layout = rows->back().layout_id;
  std::mt19937_64 random(1);
  std::vector<double> took;
  for (int64_t i = 0; i < queries; ++i) {
    const std::string name = TensorName(static_cast<int64_t>(random() % tensors));
    const auto begin = Clock::now();
    const auto page = catalog.QueryPrefix(layout, name, kShardsOfATensor, "");
    took.push_back(Since(begin) * 1e6);
    Require("query", page.status());
    if (page->shards.size() != kShardsOfATensor) Die(name, absl::DataLossError("shards are missing"));
  }
  std::sort(took.begin(), took.end());
  return took;
}

void Run(const std::string& directory, int64_t shards, int64_t queries) {
  const int64_t tensors = shards / kShardsOfATensor;
  MemoryStore store;
  Commit(store, 1, tensors);
  auto begin = Clock::now();
  std::unique_ptr<Catalog> catalog = Open(directory);
  const auto counts = catalog->Reindex(kJob, store);
  const double reindex_seconds = Since(begin);
  Require("reindex", counts.status());
  if (counts->extents != tensors * kShardsOfATensor)
    Die("reindex", absl::DataLossError("shards are missing"));
  catalog = nullptr;
  const int64_t rows_before = CountRows(directory);

  Commit(store, 2, tensors);
  catalog = Open(directory);
  begin = Clock::now();
  Require("reconcile", catalog->Reconcile(kJob, store).status());
  const double further_seconds = Since(begin);
  catalog = nullptr;
  const int64_t rows_added = CountRows(directory) - rows_before;

  begin = Clock::now();
  catalog = Open(directory);
  const double open_seconds = Since(begin);
  const std::vector<double> took = QueryMicroseconds(*catalog, tensors, queries);
  std::printf(
      "{\"shards\": %lld, \"reindex_seconds\": %.6f, \"further_seconds\": %.6f, \"rows\": %lld, "
      "\"rows_added\": %lld, "
      "\"open_seconds\": %.6f, \"query_p50_us\": %.1f, \"query_p99_us\": %.1f}\n",
      static_cast<long long>(counts->extents), reindex_seconds, further_seconds,
      static_cast<long long>(rows_before), static_cast<long long>(rows_added), open_seconds,
      took[took.size() / 2], took[took.size() * 99 / 100]);
}

}  // namespace
}  // namespace keepstep::storage

int main(int argc, char** argv) {
  std::string directory;
  int64_t shards = 1'000'000, queries = 20'000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--directory") directory = argv[i + 1];
    if (flag == "--shards") shards = std::atoll(argv[i + 1]);
    if (flag == "--queries") queries = std::atoll(argv[i + 1]);
  }
  if (directory.empty() || shards < 100 || queries < 1) {
    std::fprintf(stderr, "catalog_bench --directory DIR [--shards N] [--queries N]\n");
    return 2;
  }
  keepstep::storage::Run(directory, shards, queries);
  return 0;
}
