// operator new of the simulation: a run makes some 50,000 small blocks and frees them soon after.
//
// Each thread keeps the blocks that it freed, by size, and hands them out again; nothing goes back before the
// process ends. Every block is preceded by its size class, so that any operator delete finds its list. Large
// blocks are malloc's. Under a sanitizer the sanitizer's own operators stay.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

constexpr size_t kGrain = 16;  // also the alignment, and the room before a block
constexpr size_t kClasses = 64;
constexpr size_t kSlabBytes = 64 << 10;
constexpr size_t kLarge = kClasses;  // the class of malloc's blocks

union Block {
  size_t size_class;  // in use
  Block* next;        // free
  alignas(kGrain) char room[kGrain];
};

constinit thread_local Block* freed[kClasses] = {};
constinit thread_local char* slab = nullptr;
constinit thread_local size_t slab_left = 0;

void* FromMalloc(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}

Block* Fresh(size_t size) {
  if (slab_left < size) {
    slab = static_cast<char*>(FromMalloc(kSlabBytes));
    slab_left = kSlabBytes;
  }
  Block* block = reinterpret_cast<Block*>(slab);
  slab += size;
  slab_left -= size;
  return block;
}

}  // namespace

void* operator new(size_t size) {
  const size_t size_class = size == 0 ? 0 : (size - 1) / kGrain;
  Block* block;
  if (size_class >= kClasses) {
    block = static_cast<Block*>(FromMalloc(sizeof(Block) + size));
    block->size_class = kLarge;
    return block + 1;
  }
  block = freed[size_class];
  if (block != nullptr) {
    freed[size_class] = block->next;
  } else {
    block = Fresh(sizeof(Block) + (size_class + 1) * kGrain);
  }
  block->size_class = size_class;
  return block + 1;
}

void operator delete(void* memory) noexcept {
  if (memory == nullptr) return;
  Block* block = static_cast<Block*>(memory) - 1;
  const size_t size_class = block->size_class;
  if (size_class == kLarge) {
    std::free(block);
    return;
  }
  block->next = freed[size_class];
  freed[size_class] = block;
}

void operator delete(void* memory, size_t) noexcept { operator delete(memory); }

#endif
