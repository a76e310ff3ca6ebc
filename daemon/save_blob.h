// One blob of a save: its extents, header and chunks; what to copy for each chunk, and the digests of what
// was copied.
//
// Chunk k is written as bytes [WriteBegin(k), WriteBegin(k + 1)) of the file, all multiples of
// kDirectAlignment but the last. Its blocks may begin up to kDirectAlignment earlier, with bytes that chunk
// k - 1 copied: the carry. So chunk k can be digested once k and k - 1 are copied; which chunks are
// digested at once is the caller's choice.

#ifndef KEEPSTEP_DAEMON_SAVE_BLOB_H_
#define KEEPSTEP_DAEMON_SAVE_BLOB_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/box_mover.h"
#include "daemon/chunk_grid.h"
#include "daemon/save_pipeline.h"
#include "daemon/save_result.h"
#include "reshard/save_plan.h"
#include "storage/safetensors.h"

namespace keepstep::daemon {

class SaveBlob {
 public:
  // The tensors of `plan` (null: none) and the spec's extras if `with_extras`. `spec` outlives the blob.
  // INVALID_ARGUMENT, RESOURCE_EXHAUSTED: a header that cannot be.
  static absl::StatusOr<std::unique_ptr<SaveBlob>> Make(const SaveSpec& spec, reshard::Component component,
                                                        const reshard::BlobPlan* plan, bool with_extras,
                                                        int64_t buffer_bytes);

  const std::string& name() const { return result_.name; }
  int64_t size_bytes() const { return result_.size_bytes; }
  const std::vector<Chunk>& chunks() const { return chunks_; }
  int64_t WriteBegin(size_t chunk) const;
  uint32_t FirstGroup(size_t chunk) const { return GroupOf(result_.extents[chunks_[chunk].first_extent]); }

  // Calls fn(group, bytes) for every tensor's bytes in [begin_bytes, end_bytes) of the file.
  void ForEachGroup(int64_t begin_bytes, int64_t end_bytes,
                    const std::function<void(uint32_t, int64_t)>& fn) const;

  // Fills the chunk's bytes to write in its image. Any thread, any order.
  absl::Status Copy(size_t chunk, std::byte* image, MemoryPort& port, Cancellation& cancel);

  // Digests the chunk's blocks. REQUIRES: Copy of it and of the one before returned OK. Any thread; each
  // chunk once.
  void Digest(size_t chunk, std::byte* image);

  // The header's bytes, as long as the space before the data. Any thread.
  absl::StatusOr<std::string> Header() const;

  // REQUIRES: every chunk digested. Nothing else of this may be called afterwards.
  SavedBlob TakeResult(const std::string& header);

 private:
  explicit SaveBlob(const SaveSpec& spec) : spec_(spec) {}

  void AddTensors(const reshard::BlobPlan& plan);
  void AddExtras();
  void Place(int64_t buffer_bytes);
  uint32_t GroupOf(const SavedExtent& extent) const {
    return extent.shard == nullptr ? last_group_ : extent.shard->group;
  }
  TrainerBox SourceOf(const SavedExtent& extent) const;
  std::vector<storage::HeaderEntry> Entries() const;
  size_t FirstExtentAt(int64_t offset_bytes) const;

  const SaveSpec& spec_;
  SavedBlob result_;  // all but the header's digest, before the blocks' are filled in
  size_t tensors_ = 0;  // extents before those of extras
  std::vector<absl::string_view> extra_items_;
  uint32_t last_group_ = 0;  // of the tensors; extras go with it
  std::vector<Chunk> chunks_;
  std::vector<std::string> carries_;  // by chunk: the bytes before WriteBegin that its image needs
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_BLOB_H_
