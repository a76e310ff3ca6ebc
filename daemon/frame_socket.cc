#include "daemon/frame_socket.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

constexpr int kMostSent = 4;  // descriptors of a frame of ours

std::vector<storage::UniqueFd> Descriptors(msghdr& message) {
  std::vector<storage::UniqueFd> out;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      out.emplace_back(fd);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<ReceivedFrame> FrameSocket::Receive() {
  ReceivedFrame frame;
  frame.bytes.resize(proto::kMaxFrameBytes);
  iovec data{frame.bytes.data(), frame.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(proto::kMaxDescriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return absl::UnavailableError("nothing to read");
  if (got <= 0) return absl::OutOfRangeError("closed");
  frame.descriptors = Descriptors(message);
  if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    return absl::InvalidArgumentError("a frame beyond the limits");
  frame.bytes.resize(got);
  return frame;
}

absl::Status FrameSocket::Send(absl::Span<const std::byte> frame, absl::Span<const int> descriptors) {
  iovec data{const_cast<std::byte*>(frame.data()), frame.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMostSent * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size() * sizeof(int));
  }
  std::lock_guard lock(send_mutex_);
  for (;;) {
    if (sendmsg(fd_.get(), &message, MSG_NOSIGNAL) >= 0) return absl::OkStatus();
    if (errno != EINTR) return absl::UnavailableError(absl::StrCat("The client is gone: ", strerror(errno)));
  }
}

absl::Status FrameSocket::SendCopy(uint64_t id, bool into_client,
                                   absl::Span<const proto::CopyEntry> entries) {
  proto::Copy copy;
  copy.id = id;
  copy.into_client = into_client ? 1 : 0;
  copy.count = static_cast<uint32_t>(entries.size());
  std::vector<std::byte> frame(sizeof(copy) + entries.size() * sizeof(proto::CopyEntry));
  memcpy(frame.data(), &copy, sizeof(copy));
  memcpy(frame.data() + sizeof(copy), entries.data(), entries.size() * sizeof(proto::CopyEntry));
  return Send(frame);
}

void FrameSocket::Shutdown() { shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace keepstep::daemon
