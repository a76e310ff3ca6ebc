#include "tests/fake_cuda/peer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

extern char** environ;

namespace keepstep::fake_cuda {
namespace {

constexpr char kFlag[] = "--peer=";
constexpr int kPeerSocket = 3;

std::map<std::string, PeerFunction>& Functions() {
  static auto& functions = *new std::map<std::string, PeerFunction>;
  return functions;
}

}  // namespace

void Broken(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: peer %d: not so: %s\n", file, line, static_cast<int>(getpid()), what);
  std::_Exit(1);
}

PeerRegistration::PeerRegistration(const char* name, PeerFunction function) { Functions()[name] = function; }

void Channel::SendBytes(const void* bytes, size_t size_bytes, int descriptor) {
  iovec vector{const_cast<void*>(bytes), size_bytes};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  REQUIRE(sendmsg(fd_, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size_bytes));
}

// Without taking it.
bool Channel::Arrives() {
  char byte = 0;
  return recv(fd_, &byte, 1, MSG_PEEK) > 0;
}

int Channel::ReceiveBytes(void* bytes, size_t size_bytes) {
  iovec vector{bytes, size_bytes};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  REQUIRE(recvmsg(fd_, &message, MSG_CMSG_CLOEXEC) == static_cast<ssize_t>(size_bytes));
  int descriptor = -1;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header) std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
  return descriptor;
}

void Channel::SendDescriptor(int descriptor) { SendBytes("d", 1, descriptor); }

int Channel::ReceiveDescriptor() {
  char letter = 0;
  const int descriptor = ReceiveBytes(&letter, 1);
  REQUIRE(descriptor >= 0);
  return descriptor;
}

Peer::Peer(const std::string& name) : fd_(-1), pid_(-1), channel_(-1) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], kPeerSocket);
  std::string program = "/proc/self/exe", flag = kFlag + name;
  char* arguments[] = {program.data(), flag.data(), nullptr};
  REQUIRE(posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, arguments, environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  fd_ = ends[0];
  channel_ = Channel(fd_);
}

Peer::~Peer() {
  if (pid_ > 0) Kill();
  close(fd_);
}

void Peer::Kill() {
  kill(pid_, SIGKILL);
  Ended();
}

int Peer::EndedWith() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace keepstep::fake_cuda

int main(int argc, char** argv) {
  using namespace keepstep::fake_cuda;
  if (argc == 2 && std::strncmp(argv[1], kFlag, sizeof kFlag - 1) == 0) {
    Channel channel(kPeerSocket);
    Functions().at(argv[1] + sizeof kFlag - 1)(channel);
    std::_Exit(0);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
