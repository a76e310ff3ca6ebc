#include "tests/sim/sim_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/disk_full.h"

namespace keepstep::sim {

using storage::StoreOp;
using storage::StoreResult;

namespace {

absl::string_view ParentOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? absl::string_view() : path.substr(0, slash);
}

absl::string_view LeafOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? path : path.substr(slash + 1);
}

bool IsWrite(StoreOp::Kind kind) {
  return kind == StoreOp::Kind::kPublish || kind == StoreOp::Kind::kPut || kind == StoreOp::Kind::kDelete ||
         kind == StoreOp::Kind::kDeleteTree || kind == StoreOp::Kind::kSyncTree;
}

}  // namespace

SimStore::Node* SimStore::Walk(absl::string_view path, bool durable) const {
  Node* node = root_.get();
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto& entries = durable ? node->kept : node->seen;
    const auto found = entries.find(path.substr(begin, end - begin));
    if (found == entries.end()) return nullptr;
    node = found->second.get();
    begin = end + 1;
  }
  return node;
}

SimStore::Node& SimStore::MakeDirectories(absl::string_view path) {
  Node* node = root_.get();
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const absl::string_view leaf = path.substr(begin, end - begin);
    if (node->seen.find(leaf) == node->seen.end()) Put(*node, leaf, {.directory = true});
    node = node->seen.find(leaf)->second.get();
    begin = end + 1;
  }
  return *node;
}

void SimStore::Put(Node& directory, absl::string_view leaf, Node file) {
  directory.seen[std::string(leaf)] = std::make_shared<Node>(std::move(file));
  directory.pending = true;
}

absl::Status SimStore::SyncTree(absl::string_view directory) {
  if (Walk(directory, false) == nullptr) return absl::NotFoundError(directory);
  for (absl::string_view path = directory;; path = ParentOf(path)) {
    if (random_.Chance(faults_.sync)) return absl::AbortedError("fsync of a directory failed");
    Node* node = Walk(path, false);
    if (std::exchange(node->pending, false)) node->kept = node->seen;
    if (path.empty()) return absl::OkStatus();
  }
}

absl::Status SimStore::Publish(const StoreOp& op) {
  const absl::string_view parent = ParentOf(op.path);
  Node& directory = MakeDirectories(parent);
  if (directory.seen.contains(LeafOf(op.path))) {
    absl::Status synced = SyncTree(parent);
    return synced.ok() ? absl::AlreadyExistsError(op.path) : synced;
  }
  if (random_.Chance(faults_.flush)) return absl::AbortedError("fsync of a temporary file failed");
  Put(directory, LeafOf(op.path), {.bytes = op.bytes, .flushed = true});
  return SyncTree(parent);
}

void SimStore::Remove(absl::string_view path) {
  Node* parent = Walk(ParentOf(path), false);
  if (parent == nullptr) return;
  const auto found = parent->seen.find(LeafOf(path));
  if (found == parent->seen.end()) return;
  parent->seen.erase(found);
  parent->pending = true;
}

StoreResult SimStore::Perform(const StoreOp& op) {
  StoreResult result;
  switch (op.kind) {
    case StoreOp::Kind::kList:
      for (const auto& [leaf, directory] : List(op.path)) {
        const std::string path = op.path.empty() ? leaf : absl::StrCat(op.path, "/", leaf);
        const Node* node = Walk(path, false);
        result.blobs.push_back(
            {*storage::BlobPath::Parse(path), static_cast<int64_t>(node->bytes.size()), directory});
      }
      return result;
    case StoreOp::Kind::kReadPublished:
      if (Walk(op.path, false) != nullptr) {
        result.status = SyncTree(ParentOf(op.path));
        if (!result.status.ok()) {
          result.status = absl::UnavailableError("cannot make the name durable");
          return result;
        }
      }
      [[fallthrough]];
    case StoreOp::Kind::kRead:
      if (const std::string* bytes = Read(op.path, false)) {
        result.bytes = *bytes;
      } else {
        result.status = absl::NotFoundError(op.path);
      }
      return result;
    case StoreOp::Kind::kPublish: result.status = Publish(op); return result;
    case StoreOp::Kind::kSyncTree: result.status = SyncTree(op.path); return result;
    case StoreOp::Kind::kDelete:
      if (const Node* node = Walk(op.path, false); node != nullptr && node->directory && !node->seen.empty()) {
        result.status = absl::FailedPreconditionError("the directory is not empty");
        return result;
      }
      [[fallthrough]];
    case StoreOp::Kind::kDeleteTree: Remove(op.path); return result;
    case StoreOp::Kind::kPut:
      result.status = WriteBlob(op.path, op.bytes);
      if (result.status.ok()) result.status = FlushBlob(op.path);
      return result;
  }
  return result;
}

StoreResult SimStore::Run(const StoreOp& op) {
  if (random_.Chance(faults_.error)) {
    return {.status = IsWrite(op.kind) ? absl::AbortedError("EIO") : absl::UnavailableError("EIO")};
  }
  if (IsWrite(op.kind) && op.kind != StoreOp::Kind::kDelete && random_.Chance(faults_.no_space)) {
    return {.status = storage::DiskFull("ENOSPC")};
  }
  StoreResult result = Perform(op);
  if (result.status.ok() && random_.Chance(faults_.lost_reply))
    return {.status = absl::UnavailableError("reply lost")};
  return result;
}

void SimStore::Interrupt(const StoreOp& op) {
  if (!IsWrite(op.kind)) return;
  const int64_t how_far = random_.Below(4);
  if (op.kind != StoreOp::Kind::kPublish) {
    const FaultRates faults = std::exchange(faults_, {});
    if (how_far >= 2) Perform(op);
    faults_ = faults;
    return;
  }
  if (how_far == 0) return;
  Node& directory = MakeDirectories(ParentOf(op.path));
  if (how_far == 1) {
    const std::string temporary = absl::StrCat(storage::kTemporaryPrefix, ++temporaries_);
    Put(directory, temporary, {.bytes = op.bytes, .flushed = true});
  } else if (!directory.seen.contains(LeafOf(op.path))) {
    Put(directory, LeafOf(op.path), {.bytes = op.bytes, .flushed = true});
  }
}

absl::Status SimStore::WriteBlob(absl::string_view path, std::string bytes) {
  if (random_.Chance(faults_.no_space)) return storage::DiskFull("ENOSPC");
  Put(MakeDirectories(ParentOf(path)), LeafOf(path), {.bytes = std::move(bytes)});
  if (random_.Chance(faults_.error)) return absl::AbortedError("EIO");
  return absl::OkStatus();
}

absl::Status SimStore::FlushBlob(absl::string_view path) {
  Node* node = Walk(path, false);
  if (node == nullptr) return absl::AbortedError("the file is gone");
  if (random_.Chance(faults_.flush)) {
    node->lost = true;
    return absl::AbortedError("fsync failed");
  }
  node->flushed = !node->lost;
  return absl::OkStatus();
}

void SimStore::LosePower(Node& node) {
  if (!node.directory) {
    if (node.flushed) return;
    const size_t sector = random_.Chance(0.5) ? 512 : 4096;
    node.bytes.resize(random_.Between(0, static_cast<int64_t>(node.bytes.size())));
    for (size_t begin = 0; begin < node.bytes.size(); begin += sector) {
      const size_t size = std::min(sector, node.bytes.size() - begin);
      if (random_.Chance(0.5)) node.bytes.replace(begin, size, size, '\0');
    }
    node.flushed = true;
    return;
  }
  if (std::exchange(node.pending, false)) {
    Entries left = node.kept;
    for (const auto& [leaf, child] : node.seen) {
      auto kept = node.kept.find(leaf);
      if ((kept == node.kept.end() || kept->second != child) && random_.Chance(0.5)) left[leaf] = child;
    }
    for (const auto& [leaf, child] : node.kept) {
      if (!node.seen.contains(leaf) && random_.Chance(0.5)) left.erase(leaf);
    }
    node.seen = node.kept = std::move(left);
  }
  for (auto& [leaf, child] : node.seen) LosePower(*child);
}

void SimStore::PowerLoss() { LosePower(*root_); }

const std::string* SimStore::Read(absl::string_view path, bool durable) const {
  const Node* node = Walk(path, durable);
  if (node == nullptr || node->directory || (durable && !node->flushed)) return nullptr;
  return &node->bytes;
}

std::vector<std::pair<std::string, bool>> SimStore::List(absl::string_view path) const {
  std::vector<std::pair<std::string, bool>> entries;
  const Node* node = Walk(path, false);
  if (node == nullptr) return entries;
  for (const auto& [leaf, child] : node->seen) entries.emplace_back(leaf, child->directory);
  return entries;
}

}  // namespace keepstep::sim
