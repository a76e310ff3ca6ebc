#include "third_party/cuda_driver/cuda_driver.h"

#include <dlfcn.h>

namespace keepstep::cuda {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";

struct Loaded {
  Driver driver;
  bool whole = false;
  std::string why;
};

// Two steps, so that the macros of cuda.h have named the version before the name becomes a string.
#define KEEPSTEP_CUDA_TEXT(name) #name
#define KEEPSTEP_CUDA_NAME(name) KEEPSTEP_CUDA_TEXT(name)

Loaded Load() {
  Loaded loaded;
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);  // for as long as the process lives
  if (library == nullptr) {
    loaded.why = std::string("no CUDA driver: ") + dlerror();
    return loaded;
  }
  loaded.whole = true;
#define KEEPSTEP_CUDA_LOAD(name)                                                                        \
  loaded.driver.name = reinterpret_cast<decltype(&::name)>(dlsym(library, KEEPSTEP_CUDA_NAME(name))); \
  if (loaded.driver.name == nullptr && loaded.whole) {                                                 \
    loaded.whole = false;                                                                              \
    loaded.why = "the CUDA driver is too old: it has no " KEEPSTEP_CUDA_NAME(name);                    \
  }
  KEEPSTEP_CUDA_FUNCTIONS(KEEPSTEP_CUDA_LOAD)
#undef KEEPSTEP_CUDA_LOAD
  return loaded;
}

}  // namespace

std::string Driver::Describe(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  (void)cuGetErrorName(result, &name);
  (void)cuGetErrorString(result, &text);
  return std::string(name == nullptr ? "CUDA error" : name) + " (" + std::to_string(static_cast<int>(result)) +
         (text == nullptr ? ")" : std::string("): ") + text);
}

const Driver* LoadDriver(std::string* why) {
  static const Loaded* const loaded = new Loaded(Load());
  if (loaded->whole) return &loaded->driver;
  if (why != nullptr) *why = loaded->why;
  return nullptr;
}

}  // namespace keepstep::cuda
