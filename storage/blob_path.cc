// Parsing is the only way in, so the checks are all here.

#include "storage/blob_path.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace keepstep::storage {
namespace {

absl::Status CheckComponent(absl::string_view component) {
  if (component.empty()) return absl::InvalidArgumentError("is empty or has an empty component");
  if (component.size() > BlobPath::kMaxComponentBytes) {
    return absl::InvalidArgumentError("has a component of more than 255 bytes");
  }
  if (component == "." || component == "..") {
    return absl::InvalidArgumentError("has a component that is `.` or `..`");
  }
  for (char c : component) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return absl::InvalidArgumentError("holds a control character");
  }
  return absl::OkStatus();
}

absl::Status Check(absl::string_view text) {
  if (text.size() > BlobPath::kMaxPathBytes) return absl::InvalidArgumentError("is longer than 4000 bytes");
  size_t components = 0;
  for (absl::string_view component : absl::StrSplit(text, '/')) {
    if (++components > BlobPath::kMaxComponents)
      return absl::InvalidArgumentError("has more than 64 components");
    if (absl::Status status = CheckComponent(component); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BlobPath> BlobPath::Parse(absl::string_view text) {
  if (absl::Status status = Check(text); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("path \"", absl::CHexEscape(text.substr(0, 256)), "\" ", status.message()));
  }
  return BlobPath(std::string(text));
}

absl::StatusOr<BlobPath> BlobPath::Join(absl::string_view relative) const {
  return is_root() ? Parse(relative) : Parse(absl::StrCat(text_, "/", relative));
}

BlobPath BlobPath::Parent() const {
  const size_t slash = text_.rfind('/');
  return slash == std::string::npos ? Root() : BlobPath(text_.substr(0, slash));
}

absl::string_view BlobPath::Leaf() const {
  const size_t slash = text_.rfind('/');
  return slash == std::string::npos ? absl::string_view(text_) : absl::string_view(text_).substr(slash + 1);
}

}  // namespace keepstep::storage
