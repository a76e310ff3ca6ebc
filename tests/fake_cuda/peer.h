// A second process of a test: the same program, started anew, which does one named thing and talks over a
// socket.
//
//   PEER(export_block) { …  channel.Send(handle); channel.Receive<char>(); }
//   Peer peer("export_block");  auto handle = peer.channel().Receive<CUipcMemHandle>();

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_PEER_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_PEER_H_

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>

namespace keepstep::fake_cuda {

// Ends the process with a message unless `what` holds: for peers, where a failure shows in their exit status.
#define REQUIRE(what) \
  if (!(what)) keepstep::fake_cuda::Broken(#what, __FILE__, __LINE__)

[[noreturn]] void Broken(const char* what, const char* file, int line);

// One end of a socket. An end whose other is gone breaks the process (REQUIRE).
class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}

  template <typename Value>
  void Send(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    SendBytes(&value, sizeof value, -1);
  }

  template <typename Value>
  Value Receive() {
    static_assert(std::is_trivially_copyable_v<Value>);
    Value value;
    ReceiveBytes(&value, sizeof value);
    return value;
  }

  // Nothing: the other end is gone, and has said nothing more.
  template <typename Value>
  std::optional<Value> TryReceive() {
    static_assert(std::is_trivially_copyable_v<Value>);
    Value value;
    if (!Arrives()) return std::nullopt;
    ReceiveBytes(&value, sizeof value);
    return value;
  }

  void SendDescriptor(int descriptor);
  int ReceiveDescriptor();

 private:
  void SendBytes(const void* bytes, size_t size_bytes, int descriptor);
  bool Arrives();
  int ReceiveBytes(void* bytes, size_t size_bytes);  // the descriptor that came along, or -1

  int fd_;
};

class Peer {
 public:
  explicit Peer(const std::string& name);
  ~Peer();  // kills it if it has not ended
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  Channel& channel() { return channel_; }

  // Ends it as SIGKILL does, and returns once it is gone.
  void Kill();

  // Waits until it has ended; true when by itself and with success.
  bool Ended() { return EndedWith() == 0; }
  // Its exit status, or the negative of the signal that ended it.
  int EndedWith();

 private:
  int fd_;
  pid_t pid_;
  Channel channel_;
};

using PeerFunction = void (*)(Channel& channel);

// Registers `function` under `name`.
struct PeerRegistration {
  PeerRegistration(const char* name, PeerFunction function);
};

#define PEER(name)                                                                      \
  void Peer_##name(keepstep::fake_cuda::Channel& channel);                              \
  const keepstep::fake_cuda::PeerRegistration registration_##name(#name, &Peer_##name); \
  void Peer_##name([[maybe_unused]] keepstep::fake_cuda::Channel& channel)

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_PEER_H_
