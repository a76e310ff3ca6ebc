#include "tests/fake_cuda/physical.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>

namespace keepstep::fake_cuda {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSlabBytes = size_t{64} << 20;
constexpr size_t kSmallBytes = size_t{1} << 20;  // at most this goes into a slab
constexpr char kLabelMagic[8] = {'K', 'S', 'F', 'C', 'M', 'E', 'M', '1'};
constexpr char kHandleMagic[8] = {'K', 'S', 'F', 'C', 'I', 'P', 'C', '1'};

size_t WholePages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

// A memfd, mapped from `begin` on.
class MemoryFile {
 public:
  static std::shared_ptr<MemoryFile> Create(size_t size_bytes) {
    const int fd = memfd_create("fake-cuda-memory", MFD_CLOEXEC);
    if (fd < 0) return nullptr;
    if (ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
      close(fd);
      return nullptr;
    }
    return Map(fd, 0, size_bytes);
  }

  // Takes `fd`.
  static std::shared_ptr<MemoryFile> Map(int fd, uint64_t begin, size_t size_bytes) {
    void* memory =
        mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(begin));
    if (memory == MAP_FAILED) {
      close(fd);
      return nullptr;
    }
    return std::shared_ptr<MemoryFile>(new MemoryFile(fd, begin, static_cast<char*>(memory), size_bytes));
  }

  ~MemoryFile() {
    munmap(memory_, size_bytes_);
    CloseDescriptor();
  }

  // For what nobody will export from here: the mapping is enough.
  void CloseDescriptor() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  char* At(uint64_t offset) const { return memory_ + (offset - begin_); }
  int fd() const { return fd_; }

  // Where the next `bytes` of a slab begin; false when it is full. Nothing is handed out twice: whoever still
  // maps a piece that was freed must not see another one's bytes.
  bool Take(size_t bytes, uint64_t& offset) {
    if (taken_ + bytes > size_bytes_) return false;
    offset = taken_;
    taken_ += bytes;
    return true;
  }

 private:
  MemoryFile(int fd, uint64_t begin, char* memory, size_t size_bytes)
      : fd_(fd), begin_(begin), memory_(memory), size_bytes_(size_bytes) {}

  int fd_;
  const uint64_t begin_;
  char* const memory_;
  const size_t size_bytes_;
  size_t taken_ = 0;
};

namespace {

// Room for `bytes` in a slab with others.
std::shared_ptr<MemoryFile> TakeFromSlab(size_t bytes, uint64_t& offset) {
  static std::mutex mutex;
  static auto& current = *new std::weak_ptr<MemoryFile>;
  std::lock_guard lock(mutex);
  std::shared_ptr<MemoryFile> slab = current.lock();
  if (slab && slab->Take(bytes, offset)) return slab;
  slab = MemoryFile::Create(kSlabBytes);
  if (slab) slab->Take(bytes, offset);
  current = slab;
  return slab;
}

}  // namespace

Physical::Physical(std::shared_ptr<MemoryFile> file, uint64_t offset_bytes, bool in_own_slab)
    : file_(std::move(file)),
      offset_bytes_(offset_bytes),
      label_(reinterpret_cast<Label*>(file_->At(offset_bytes))),
      in_own_slab_(in_own_slab) {}

std::shared_ptr<Physical> Physical::Create(Use use, const Uuid& device, size_t size_bytes,
                                           uint32_t handle_types) {
  const size_t bytes = kPage + WholePages(size_bytes);
  uint64_t offset = 0;
  const bool small = bytes <= kSmallBytes && use != Use::kVmm;
  std::shared_ptr<MemoryFile> file = small ? TakeFromSlab(bytes, offset) : MemoryFile::Create(bytes);
  if (!file) return nullptr;
  std::shared_ptr<Physical> made(new Physical(std::move(file), offset, small));
  Label& label = made->label();
  if (getrandom(label.identity.data(), sizeof label.identity, 0) != sizeof label.identity) return nullptr;
  std::memcpy(label.magic, kLabelMagic, sizeof kLabelMagic);
  label.device = device;
  label.size_bytes = size_bytes;
  label.use = static_cast<uint32_t>(use);
  label.handle_types = handle_types;
  label.maker = getpid();
  return made;
}

std::shared_ptr<Physical> Physical::Open(int fd, uint64_t offset_bytes) {
  Label label;
  char* bytes = reinterpret_cast<char*>(&label);
  struct stat status {};
  if (fstat(fd, &status) != 0 ||
      pread(fd, bytes, sizeof label, static_cast<off_t>(offset_bytes)) != sizeof label ||
      std::memcmp(label.magic, kLabelMagic, sizeof kLabelMagic) != 0 ||
      offset_bytes + kPage + label.size_bytes > static_cast<uint64_t>(status.st_size)) {
    close(fd);
    return nullptr;
  }
  std::shared_ptr<MemoryFile> file = MemoryFile::Map(fd, offset_bytes, kPage + WholePages(label.size_bytes));
  if (!file) return nullptr;
  return std::shared_ptr<Physical>(new Physical(std::move(file), offset_bytes, false));
}

std::shared_ptr<Physical> Physical::OpenHandle(const HandleBytes& handle) {
  if (std::memcmp(handle.magic, kHandleMagic, sizeof kHandleMagic) != 0) return nullptr;
  const std::string path = "/proc/" + std::to_string(handle.pid) + "/fd/" + std::to_string(handle.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return nullptr;
  std::shared_ptr<Physical> found = Open(fd, handle.offset_bytes);
  if (!found || found->label().identity != handle.identity || found->label().use != handle.use ||
      found->label().freed != 0) {
    return nullptr;
  }
  found->file_->CloseDescriptor();
  return found;
}

Physical::~Physical() {
  if (!in_own_slab_ || exported_) return;
  // The slab lives on; these pages need not.
  fallocate(file_->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset_bytes_),
            static_cast<off_t>(kPage + WholePages(size_bytes())));
}

HandleBytes Physical::Handle() {
  exported_ = true;
  HandleBytes handle{};
  std::memcpy(handle.magic, kHandleMagic, sizeof kHandleMagic);
  handle.pid = getpid();
  handle.fd = file_->fd();
  handle.use = label_->use;
  handle.offset_bytes = offset_bytes_;
  handle.identity = label_->identity;
  handle.device = label_->device;
  return handle;
}

void Physical::Free() {
  label_->freed = 1;
  if (exported_) std::memset(data(), 0xDD, size_bytes());
}

bool Physical::MakerIsGone() const {
  return label_->maker != getpid() && kill(label_->maker, 0) != 0 && errno == ESRCH;
}

char* Physical::data() const { return reinterpret_cast<char*>(label_) + kPage; }

int Physical::fd() const { return file_->fd(); }

}  // namespace keepstep::fake_cuda
