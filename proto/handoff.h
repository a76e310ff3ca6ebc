// The handoff socket: what gRPC cannot carry between a client and its local daemon.
//
// A SOCK_SEQPACKET Unix socket beside the gRPC one. One connection a session; it lives as long as the session
// does, so that its end is the first sign of a dead client. Frames are the structs below, little-endian, one
// a packet; the receiver checks the size against `kind` before it reads a field.
//
//   1. client → Hello, with descriptors by SCM_RIGHTS: the job directory's (O_DIRECTORY, or none for a session
//   that
//      only looks), and then that of its flight record (flight_record.h), if it has one. The daemon takes uid, gid and pid from SO_PEERCRED and holds a pidfd from then on.
//   2. daemon reads the 16-byte nonce at Hello.nonce_address with process_vm_readv. The same bytes: pull
//   works.
//   3. daemon → Welcome with descriptors [daemon page, client page] and, by window, [window]; or Refused, and
//   closes. One that is full refuses before it has read Hello: a client whose send fails with EPIPE, or whose
//   first recvmsg fails with ECONNRESET, still reads why.
//   4. client opens gRPC with the token, and from then on:
//      by window: daemon → Copy {out or in, entries}; client's copy thread → CopyDone with the same id.
//      client → Notify when it has changed its page (a verdict). Lost notifies are harmless: the daemon also
//      looks at the page on its own timer. client → Goodbye before it closes for good: the daemon does not
//      wait for the session to resume.
//      client → AskSave: Sessions.Save without gRPC, for requests that fit a frame. The answer is the save's
//      slot in the daemon's page: a state, or NONE, which says "call Sessions.Save, it tells why not". An ask
//      that is lost or goes unanswered is harmless too: Sessions.Save of the same number is the same save.
//      client → Descriptors, of GPU memory that is shared by descriptor.
//
// The descriptor of GPU memory that the daemon owns is fetched on a connection of its own, so that nobody has to tell it
// from the frames of a session: client → Fetch as the first frame; daemon → Fetched with the descriptor, or Refused, and
// closes. The caller must be the process of the session that the token names.
//
// All memory that a side maps is sealed against shrinking, so that neither can end the other with SIGBUS.

#ifndef KEEPSTEP_PROTO_HANDOFF_H_
#define KEEPSTEP_PROTO_HANDOFF_H_

#include <cstddef>
#include <cstdint>

namespace keepstep::proto {

inline constexpr uint32_t kHandoffMagic = 0x4f48534b;  // "KSHO"
inline constexpr uint16_t kHandoffVersion = 1;
inline constexpr int kTokenBytes = 16;
inline constexpr int kNonceBytes = 16;
inline constexpr int kMaxCopyEntries = 1024;
inline constexpr char kGrpcSocketName[] = "keepstep.sock";
inline constexpr char kHandoffSocketName[] = "keepstep-handoff.sock";
inline constexpr char kTokenMetadataKey[] = "keepstep-token";  // value: 32 lower-case hex digits

enum class FrameKind : uint16_t {
  kHello = 1,
  kWelcome = 2,
  kRefused = 3,
  kCopy = 4,
  kCopyDone = 5,
  kNotify = 6,
  kGoodbye = 7,
  kAskSave = 8,
  kDescriptors = 9,
  kFetch = 10,
  kFetched = 11
};

// How the daemon reaches a client's host memory.
enum class Transfer : uint8_t { kAuto = 0, kPull = 1, kWindow = 2 };

struct FrameHeader {
  uint32_t magic = kHandoffMagic;
  uint16_t version = kHandoffVersion;
  FrameKind kind{};
};

struct Hello {
  FrameHeader header{.kind = FrameKind::kHello};
  uint64_t nonce_address = 0;  // of kNonceBytes bytes in the client, unchanged while the session lives
  uint8_t nonce[kNonceBytes] = {};
  Transfer want = Transfer::kAuto;
  uint8_t has_directory = 0;
  uint8_t has_umask = 0;  // 0: an older client, or one that cannot tell
  uint8_t has_flight_record = 0;
  uint16_t umask = 0;  // of the client; files of the job get modes within it
  uint8_t reserved2[2] = {};
  char directory[1024] = {};  // as the caller named it, for people; NUL-terminated
};

struct Welcome {
  FrameHeader header{.kind = FrameKind::kWelcome};
  uint8_t token[kTokenBytes] = {};
  Transfer transfer = Transfer::kPull;
  uint8_t maps_gpu_memory = 0;  // 0: DeviceMemory is refused; the client copies it through the window
  uint8_t reserved[6] = {};
  uint64_t window_bytes = 0;  // 0 by pull
};

struct Refused {
  FrameHeader header{.kind = FrameKind::kRefused};
  int32_t code = 0;  // google.rpc.Code
  char reason[64] = {};
  char message[512] = {};
};

struct CopyEntry {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
  uint64_t window_offset_bytes = 0;
};

// Followed by `count` CopyEntry. The client copies only between its registered buffers and the window.
struct Copy {
  FrameHeader header{.kind = FrameKind::kCopy};
  uint64_t id = 0;
  uint8_t into_client = 0;  // 0: client → window (save); 1: window → client (load)
  uint8_t reserved[3] = {};
  uint32_t count = 0;
};

struct CopyDone {
  FrameHeader header{.kind = FrameKind::kCopyDone};
  uint64_t id = 0;
  int32_t error = 0;  // 0 or an errno
  uint32_t reserved = 0;
};

struct Notify {
  FrameHeader header{.kind = FrameKind::kNotify};
};

struct Goodbye {
  FrameHeader header{.kind = FrameKind::kGoodbye};
};

// Followed by an encoded v1::SaveRequest of at most kMaxAskBytes, to the frame's end.
struct AskSave {
  FrameHeader header{.kind = FrameKind::kAskSave};
};

// Carries the descriptors of DeviceMemory, numbered `first` to `first` + how many came along, at most
// kMaxDescriptors. A number is used once in a session. They come before the Register that names them.
struct Descriptors {
  FrameHeader header{.kind = FrameKind::kDescriptors};
  uint64_t first = 0;
};

struct Fetch {
  FrameHeader header{.kind = FrameKind::kFetch};
  uint8_t token[kTokenBytes] = {};
  uint8_t gpu[16] = {};  // UUID
  uint64_t ordinal = 0;  // as Sessions.Allocate named it
};

// With one descriptor.
struct Fetched {
  FrameHeader header{.kind = FrameKind::kFetched};
  uint64_t size_bytes = 0;
};

inline constexpr int kMaxDescriptors = 253;  // the kernel's limit for one message (SCM_MAX_FD)

inline constexpr size_t kMaxFrameBytes = sizeof(Copy) + kMaxCopyEntries * sizeof(CopyEntry);
inline constexpr size_t kMaxAskBytes = kMaxFrameBytes - sizeof(AskSave);

}  // namespace keepstep::proto

#endif  // KEEPSTEP_PROTO_HANDOFF_H_
