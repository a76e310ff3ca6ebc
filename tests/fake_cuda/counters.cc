#include "tests/fake_cuda/counters.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <mutex>

namespace keepstep::fake_cuda {
namespace {

constexpr int kSlots = 256;
constexpr char kMagic[8] = {'K', 'S', 'F', 'C', 'U', 'D', 'A', '1'};

std::atomic<int> counters_fd = -1;

// A child of fork has no driver, and must not keep its parent's slot alive.
void CloseInChild() {
  const int fd = counters_fd.exchange(-1);
  if (fd >= 0) close(fd);
}

struct flock ByteLock(int64_t offset, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = offset;
  lock.l_len = 1;
  return lock;
}

}  // namespace

struct Counters::Slot {
  std::atomic<int64_t> pid;
  std::atomic<int64_t> counters[16];
  std::atomic<int64_t> contexts[kMostDevices];
  std::atomic<int64_t> memory_bytes[kMostDevices];
  char unused[512 - 8 * (1 + 16 + 2 * kMostDevices)];
};

struct Counters::File {
  char magic[8];
  Uuid devices[kMostDevices];
  unsigned char fired[64];
  char unused[4096 - 8 - 16 * kMostDevices - 64];
  Slot slots[kSlots];
};

bool Counters::Open(const std::string& path) {
  static_assert(sizeof(Slot) == 512 && sizeof(File) == 4096 + 512 * kSlots);
  fd_ = path.empty() ? memfd_create("fake-cuda-counters", MFD_CLOEXEC)
                     : open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) return false;
  bool usable = false;
  Locked([&] {
    struct stat status {};
    if (fstat(fd_, &status) != 0) return;
    const bool fresh = status.st_size == 0;
    if (fresh && ftruncate(fd_, sizeof(File)) != 0) return;
    if (!fresh && status.st_size != sizeof(File)) return;
    file_ = Map();
    if (!file_) return;
    if (fresh) std::memcpy(file_->magic, kMagic, sizeof kMagic);
    usable = std::memcmp(file_->magic, kMagic, sizeof kMagic) == 0 && TakeSlot();
  });
  counters_fd = fd_;
  static std::once_flag registered;
  std::call_once(registered, [] { pthread_atfork(nullptr, nullptr, CloseInChild); });
  return usable;
}

// By a descriptor of its own: a mapping keeps the description of its file open, and the locks with it, in a
// forked child too, which has the mapping for as long as it lives.
Counters::File* Counters::Map() {
  const int fd = open(("/proc/self/fd/" + std::to_string(fd_)).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void* memory = mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? nullptr : static_cast<File*>(memory);
}

// Unused slots first, so that those of the dead can be read for as long as there is room.
bool Counters::TakeSlot() {
  for (const bool unused : {true, false}) {
    for (int i = 0; i < kSlots; ++i) {
      Slot& slot = file_->slots[i];
      if (unused && slot.pid != 0) continue;
      struct flock lock = ByteLock(offsetof(File, slots) + 512 * i, F_WRLCK);
      if (fcntl(fd_, F_OFD_SETLK, &lock) != 0) continue;
      std::memset(static_cast<void*>(&slot), 0, sizeof slot);
      slot.pid = getpid();
      mine_ = &slot;
      return true;
    }
  }
  return false;
}

void Counters::Locked(const std::function<void()>& what) {
  static std::mutex of_this_process;  // the file's lock belongs to the whole process
  std::lock_guard lock(of_this_process);
  struct flock taken = ByteLock(0, F_WRLCK);
  fcntl(fd_, F_OFD_SETLKW, &taken);
  what();
  struct flock released = ByteLock(0, F_UNLCK);
  fcntl(fd_, F_OFD_SETLK, &released);
}

bool Counters::Lives(int slot_number) {
  if (&file_->slots[slot_number] == mine_) return true;
  if (file_->slots[slot_number].pid == 0) return false;
  struct flock probe = ByteLock(offsetof(File, slots) + 512 * slot_number, F_WRLCK);
  return fcntl(fd_, F_OFD_GETLK, &probe) == 0 && probe.l_type != F_UNLCK;
}

int64_t Counters::Sum(const std::function<int64_t(const Slot&)>& value) {
  int64_t sum = 0;
  for (int i = 0; i < kSlots; ++i) {
    if (Lives(i)) sum += value(file_->slots[i]);
  }
  return sum;
}

void Counters::Add(Counter counter, int64_t by) { mine_->counters[counter] += by; }

int Counters::DeviceNumber(const Uuid& uuid) {
  int number = -1;
  Locked([&] {
    for (int i = 0; i < kMostDevices && number < 0; ++i) {
      if (file_->devices[i] == Uuid{}) file_->devices[i] = uuid;
      if (file_->devices[i] == uuid) number = i;
    }
  });
  return number;
}

bool Counters::AddContext(int device_number, bool exclusive) {
  bool added = false;
  Locked([&] {
    const int64_t others = Sum([&](const Slot& slot) { return slot.contexts[device_number].load(); });
    if (exclusive && others > mine_->contexts[device_number]) return;
    ++mine_->contexts[device_number];
    Add(kContexts, 1);
    added = true;
  });
  return added;
}

void Counters::RemoveContext(int device_number) {
  --mine_->contexts[device_number];
  Add(kContexts, -1);
}

bool Counters::TakeMemory(int device_number, int64_t bytes, int64_t limit_bytes) {
  bool taken = false;
  Locked([&] {
    if (UsedMemory(device_number) + bytes > limit_bytes) return;
    mine_->memory_bytes[device_number] += bytes;
    Add(kAllocations, 1);
    Add(kAllocatedBytes, bytes);
    taken = true;
  });
  return taken;
}

void Counters::GiveMemory(int device_number, int64_t bytes) {
  mine_->memory_bytes[device_number] -= bytes;
  Add(kAllocations, -1);
  Add(kAllocatedBytes, -bytes);
}

int64_t Counters::UsedMemory(int device_number) {
  return Sum([&](const Slot& slot) { return slot.memory_bytes[device_number].load(); });
}

bool Counters::FireOnce(int fault_number) {
  bool first = false;
  Locked([&] {
    first = file_->fired[fault_number] == 0;
    file_->fired[fault_number] = 1;
  });
  return first;
}

}  // namespace keepstep::fake_cuda
