// One rank of a benchmark through the C ABI alone: what a save costs a trainer without an interpreter.
//
//   c_rank DIRECTORY ADDRESS RANK WORLD TENSORS BYTES
//
// Holds TENSORS equal float32 tensors, together BYTES, each whole on rank RANK under a name of its own. Does
// what its standard input says, and answers each line with one line of JSON:
//
//   register        → {"seconds"}
//   save STEP       → {"call_seconds", "snapshot_seconds", "commit_seconds"}, once it is committed
//   gate COUNT      → {"seconds"}, the mean of COUNT passages with nothing in flight
//
// The memory is never written, so that it costs page tables alone: what is copied reads as zeros.

#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "client/keepstep.h"
#include "client/keepstep.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void Require(ks_code code, const ks_error& error, const char* what) {
  if (code == KS_OK) return;
  std::fprintf(stderr, "c_rank: %s: %s\n", what, error.message);
  std::exit(1);
}

class Rank {
 public:
  Rank(const char* directory, const char* address, int32_t rank, int32_t world, int64_t tensors,
       int64_t bytes)
      : elements_(bytes / tensors / 4), origin_(0), box_{.origin = &origin_, .shape = &elements_} {
    void* memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    names_.reserve(tensors);
    for (int64_t i = 0; i < tensors; ++i) {
      names_.push_back("rank" + std::to_string(rank) + ".tensor." + std::to_string(i));
      ks_shard shard{};
      shard.fqn = names_.back().c_str();
      shard.dtype = "F32";
      shard.global_shape = &elements_;
      shard.ndim = 1;
      shard.component = KS_MODEL;
      shard.data = static_cast<char*>(memory) + i * elements_ * 4;
      shard.data_bytes = elements_ * 4;
      shard.where = KS_BOXES;
      shard.boxes = &box_;
      shard.box_count = 1;
      shards_.push_back(shard);
    }
    ks_open_options options = keepstep::OpenOptions(directory, rank, world);
    options.address = address;
    ks_error error{};
    Require(ks_open(&options, &client_, &error), error, "open");
  }
  ~Rank() { ks_close(client_); }

  void Register() {
    ks_error error{};
    const auto begin = Clock::now();
    Require(ks_register(client_, shards_.data(), shards_.size(), &error), error, "register");
    std::printf("{\"seconds\": %.9f}\n", Since(begin));
  }

  void Save(int64_t step) {
    ks_error error{};
    uint64_t number = 0;
    const auto begin = Clock::now();
    const ks_code code = ks_save(client_, step, nullptr, &number, &error);
    const double call_seconds = Since(begin);
    Require(code, error, "save");
    ks_save_status status{};
    Require(ks_wait(client_, number, KS_COMMITTED, -1, &status, &error), error, "wait");
    if (status.state != KS_COMMITTED) Require(KS_ABORTED, status.error, "save");
    std::printf("{\"call_seconds\": %.9f, \"snapshot_seconds\": %.9f, \"commit_seconds\": %.9f}\n",
                call_seconds, status.snapshot_seconds, status.commit_seconds);
  }

  void Gate(int64_t count) {
    ks_error error{};
    const auto begin = Clock::now();
    for (int64_t i = 0; i < count; ++i) ks_before_update(client_, 0, -1, &error);
    std::printf("{\"seconds\": %.12f}\n", Since(begin) / static_cast<double>(count));
  }

 private:
  const int64_t elements_, origin_;
  const ks_box box_;
  std::vector<std::string> names_;
  std::vector<ks_shard> shards_;
  ks_client* client_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr, "c_rank DIRECTORY ADDRESS RANK WORLD TENSORS BYTES\n");
    return 2;
  }
  Rank rank(argv[1], argv[2], std::atoi(argv[3]), std::atoi(argv[4]), std::atoll(argv[5]),
            std::atoll(argv[6]));
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string word;
    int64_t operand = 0;
    words >> word >> operand;
    if (word == "register") {
      rank.Register();
    } else if (word == "save") {
      rank.Save(operand);
    } else if (word == "gate") {
      rank.Gate(operand);
    } else {
      return 2;
    }
    std::fflush(stdout);
  }
  return 0;
}
