#include "client/command/tensor_diff.h"

#include <google/protobuf/util/message_differencer.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace keepstep::client {
namespace {

std::string MetaText(const v1::TensorInfo& info) {
  const v1::TensorMeta& meta = info.tensor().meta();
  return absl::StrCat(meta.dtype(), " [", absl::StrJoin(meta.shape(), ", "), "]");
}

bool SameBoxes(const v1::TensorInfo& a, const v1::TensorInfo& b) {
  if (a.extents_size() != b.extents_size()) return false;
  for (int i = 0; i < a.extents_size(); ++i) {
    if (!google::protobuf::util::MessageDifferencer::Equals(a.extents(i).box(), b.extents(i).box()))
      return false;
  }
  return true;
}

bool SameDigests(const v1::TensorInfo& a, const v1::TensorInfo& b) {
  for (int i = 0; i < a.extents_size(); ++i) {
    if (a.extents(i).digest() != b.extents(i).digest()) return false;
  }
  return true;
}

}  // namespace

TensorDiff DiffTensors(const std::vector<v1::TensorInfo>& from, const std::vector<v1::TensorInfo>& to) {
  std::map<std::string, std::pair<const v1::TensorInfo*, const v1::TensorInfo*>> all;
  for (const v1::TensorInfo& info : from) all[info.tensor().meta().fqn()].first = &info;
  for (const v1::TensorInfo& info : to) all[info.tensor().meta().fqn()].second = &info;
  TensorDiff diff;
  for (const auto& [fqn, sides] : all) {
    const auto [a, b] = sides;
    TensorChange change{
        .fqn = fqn, .from = a == nullptr ? "" : MetaText(*a), .to = b == nullptr ? "" : MetaText(*b)};
    if (a == nullptr) {
      change.kind = TensorChange::Kind::kAdded;
    } else if (b == nullptr) {
      change.kind = TensorChange::Kind::kRemoved;
    } else if (change.from != change.to) {
      change.kind = TensorChange::Kind::kMeta;
    } else if (!SameBoxes(*a, *b)) {
      change.kind = TensorChange::Kind::kLayout;
    } else if (!SameDigests(*a, *b)) {
      change.kind = TensorChange::Kind::kContent;
    } else {
      ++diff.same;
      continue;
    }
    diff.changes.push_back(std::move(change));
  }
  return diff;
}

const char* KindName(TensorChange::Kind kind) {
  switch (kind) {
    case TensorChange::Kind::kAdded:
      return "added";
    case TensorChange::Kind::kRemoved:
      return "removed";
    case TensorChange::Kind::kMeta:
      return "dtype or shape";
    case TensorChange::Kind::kContent:
      return "content";
    case TensorChange::Kind::kLayout:
      return "layout";
  }
  return "";
}

}  // namespace keepstep::client
