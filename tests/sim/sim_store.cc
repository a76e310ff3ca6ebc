#include "tests/sim/sim_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace keepstep::sim {

using storage::StoreOp;
using storage::StoreResult;

namespace {

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string LeafOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

bool IsWrite(StoreOp::Kind kind) {
  return kind == StoreOp::Kind::kPublish || kind == StoreOp::Kind::kPut || kind == StoreOp::Kind::kDelete ||
         kind == StoreOp::Kind::kDeleteTree || kind == StoreOp::Kind::kSyncTree;
}

}  // namespace

SimStore::NodePtr SimStore::Walk(const std::string& path, bool durable) const {
  NodePtr node = root_;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto& entries = durable ? node->kept : node->seen;
    const auto found = entries.find(path.substr(begin, end - begin));
    if (found == entries.end()) return nullptr;
    node = found->second;
    begin = end + 1;
  }
  return node;
}

SimStore::NodePtr SimStore::MakeDirectories(const std::string& path) {
  NodePtr node = root_;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    NodePtr& next = node->seen[path.substr(begin, end - begin)];
    if (next == nullptr) next = std::make_shared<Node>(Node{.directory = true});
    node = next;
    begin = end + 1;
  }
  return node;
}

absl::Status SimStore::SyncTree(const std::string& directory) {
  if (Walk(directory, false) == nullptr) return absl::NotFoundError(directory);
  for (std::string path = directory;; path = ParentOf(path)) {
    if (random_.Chance(faults_.sync)) return absl::AbortedError("fsync of a directory failed");
    NodePtr node = Walk(path, false);
    node->kept = node->seen;
    if (path.empty()) return absl::OkStatus();
  }
}

absl::Status SimStore::Publish(const StoreOp& op) {
  const std::string parent = ParentOf(op.path);
  NodePtr directory = MakeDirectories(parent);
  if (directory->seen.contains(LeafOf(op.path))) {
    absl::Status synced = SyncTree(parent);
    return synced.ok() ? absl::AlreadyExistsError(op.path) : synced;
  }
  if (random_.Chance(faults_.flush)) return absl::AbortedError("fsync of a temporary file failed");
  directory->seen[LeafOf(op.path)] = std::make_shared<Node>(Node{.bytes = op.bytes, .flushed = true});
  return SyncTree(parent);
}

void SimStore::Remove(const std::string& path) {
  if (NodePtr parent = Walk(ParentOf(path), false)) parent->seen.erase(LeafOf(path));
}

StoreResult SimStore::Perform(const StoreOp& op) {
  StoreResult result;
  switch (op.kind) {
    case StoreOp::Kind::kList:
      for (const auto& [leaf, directory] : List(op.path)) {
        const std::string path = op.path.empty() ? leaf : absl::StrCat(op.path, "/", leaf);
        const NodePtr node = Walk(path, false);
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
      if (std::optional<std::string> bytes = Read(op.path, false)) {
        result.bytes = *std::move(bytes);
      } else {
        result.status = absl::NotFoundError(op.path);
      }
      return result;
    case StoreOp::Kind::kPublish: result.status = Publish(op); return result;
    case StoreOp::Kind::kSyncTree: result.status = SyncTree(op.path); return result;
    case StoreOp::Kind::kDelete:
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
    return {.status = absl::ResourceExhaustedError("ENOSPC")};
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
  NodePtr directory = how_far == 0 ? nullptr : MakeDirectories(ParentOf(op.path));
  if (how_far == 1) {
    const std::string temporary = absl::StrCat(storage::kTemporaryPrefix, ++temporaries_);
    directory->seen[temporary] = std::make_shared<Node>(Node{.bytes = op.bytes, .flushed = true});
  } else if (how_far >= 2 && !directory->seen.contains(LeafOf(op.path))) {
    directory->seen[LeafOf(op.path)] = std::make_shared<Node>(Node{.bytes = op.bytes, .flushed = true});
  }
}

absl::Status SimStore::WriteBlob(const std::string& path, const std::string& bytes) {
  if (random_.Chance(faults_.no_space)) return absl::ResourceExhaustedError("ENOSPC");
  MakeDirectories(ParentOf(path))->seen[LeafOf(path)] = std::make_shared<Node>(Node{.bytes = bytes});
  if (random_.Chance(faults_.error)) return absl::AbortedError("EIO");
  return absl::OkStatus();
}

absl::Status SimStore::FlushBlob(const std::string& path) {
  NodePtr node = Walk(path, false);
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
  std::map<std::string, NodePtr> left = node.kept;
  for (const auto& [leaf, child] : node.seen) {
    auto kept = node.kept.find(leaf);
    if ((kept == node.kept.end() || kept->second != child) && random_.Chance(0.5)) left[leaf] = child;
  }
  for (const auto& [leaf, child] : node.kept) {
    if (!node.seen.contains(leaf) && random_.Chance(0.5)) left.erase(leaf);
  }
  node.seen = node.kept = std::move(left);
  for (auto& [leaf, child] : node.seen) LosePower(*child);
}

void SimStore::PowerLoss() { LosePower(*root_); }

std::optional<std::string> SimStore::Read(const std::string& path, bool durable) const {
  NodePtr node = Walk(path, durable);
  if (node == nullptr || node->directory || (durable && !node->flushed)) return std::nullopt;
  return node->bytes;
}

std::vector<std::pair<std::string, bool>> SimStore::List(const std::string& path) const {
  std::vector<std::pair<std::string, bool>> entries;
  NodePtr node = Walk(path, false);
  if (node == nullptr) return entries;
  for (const auto& [leaf, child] : node->seen) entries.emplace_back(leaf, child->directory);
  return entries;
}

}  // namespace keepstep::sim
