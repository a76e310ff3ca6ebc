#include "daemon/read_box.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/load_pipeline.h"
#include "daemon/local_port.h"
#include "reshard/dtype.h"
#include "reshard/flat.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kSlabBytes = 8 << 20;
constexpr int64_t kMaxExtraBytes = 64 << 20;

// Fills `bytes` with elements [begin, end) of the flattening of `box`.
absl::Status ReadSlab(DataPlane& plane, const ReadSource& source, const reshard::StoredTensor& tensor,
                      const reshard::Box& box, int64_t begin, int64_t end, std::vector<std::byte>& bytes,
                      Cancellation& cancel) {
  const int64_t item = reshard::SizeBytes(tensor.meta.dtype);
  reshard::TensorShard wanted;
  wanted.meta = tensor.meta;
  int64_t offset_bytes = 0;
  for (const reshard::Box& part : reshard::DecomposeFlatRange(box, begin, end)) {
    wanted.boxes.push_back(reshard::RowMajorLayout(part, item, offset_bytes));
    offset_bytes += reshard::NumElements(part) * item;
  }
  bytes.resize(offset_bytes);
  const auto lookup = [&](absl::string_view) { return &tensor; };
  absl::StatusOr<reshard::LoadPlan> plan = reshard::MakeLoadPlan({&wanted, 1}, lookup);
  if (!plan.ok()) return plan.status();
  const auto address = reinterpret_cast<uint64_t>(bytes.data());
  LoadSpec spec;
  spec.store = source.store;
  spec.cache_prefix = source.cache_prefix;
  spec.from = source.from;
  spec.wanted = {&wanted, 1};
  spec.buffer_addresses = {&address, 1};
  spec.plan = &*plan;
  spec.port = std::make_shared<LocalPort>();
  return RunLoad(plane, spec, cancel).status();
}

}  // namespace

absl::Status ReadBox(DataPlane& plane, const ReadSource& source, absl::string_view fqn,
                     const reshard::Box& box, int64_t piece_bytes,
                     const std::function<absl::Status(absl::string_view)>& sink, Cancellation& cancel) {
  const reshard::StoredTensor* tensor = source.from->Find(fqn);
  if (tensor == nullptr) return absl::NotFoundError(absl::StrCat("no tensor ", fqn, " in this checkpoint"));
  if (absl::Status status = reshard::ValidateBox(box, tensor->meta.shape); !status.ok()) return status;
  if (piece_bytes <= 0) return absl::InvalidArgumentError("pieces of no bytes");
  const int64_t elements = reshard::NumElements(box);
  const int64_t step = kSlabBytes / reshard::SizeBytes(tensor->meta.dtype);
  std::vector<std::byte> bytes;
  for (int64_t begin = 0; begin < elements; begin += step) {
    const int64_t end = std::min(begin + step, elements);
    absl::Status status = ReadSlab(plane, source, *tensor, box, begin, end, bytes, cancel);
    if (!status.ok()) return status;
    const absl::string_view slab(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    for (size_t at = 0; at < slab.size(); at += piece_bytes) {
      if (status = sink(slab.substr(at, piece_bytes)); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadExtra(const ReadSource& source, const StoredExtra& extra) {
  std::vector<std::string> items;
  int64_t total_bytes = 0;
  for (uint32_t index : extra.extents) {
    const StoredExtent& extent = source.from->extent(index);
    total_bytes += extent.size_bytes;
    if (total_bytes > kMaxExtraBytes)
      return absl::ResourceExhaustedError(absl::StrCat("extra ", extra.name, " is beyond 64 MiB"));
    const StoredBlob& blob = source.from->blobs()[extent.blob];
    std::string& item = items.emplace_back(extent.size_bytes, '\0');
    if (item.empty()) continue;
    auto reader = OpenBlob(*source.store, blob);
    if (!reader.ok()) return reader.status();
    const auto into = absl::MakeSpan(reinterpret_cast<std::byte*>(item.data()), item.size());
    if (absl::Status status = storage::ReadExactly(**reader, extent.offset_bytes, into); !status.ok())
      return status;
    absl::Status status = storage::VerifyBlocks(into, 0, extent.size_bytes, extent.block_digests);
    if (!status.ok())
      return absl::DataLossError(
          absl::StrCat(blob.path.text(), ": extra ", extra.name, ": ", status.message()));
  }
  return items;
}

}  // namespace keepstep::daemon
