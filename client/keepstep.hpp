// C++ over keepstep.h: ownership and errors, nothing else. Header-only, without exceptions, C++17.
//
//   ks_open_options options = keepstep::OpenOptions("/ckpt/llama-7b", rank, world_size);
//   keepstep::Checkpointer checkpointer;
//   if (keepstep::Error error = checkpointer.Open(options); error) Die(error.message);

#ifndef KEEPSTEP_CLIENT_KEEPSTEP_HPP_
#define KEEPSTEP_CLIENT_KEEPSTEP_HPP_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "keepstep.h"  // beside this one, wherever the two are installed

namespace keepstep {

struct Error : ks_error {
  Error() : ks_error{} {}
  explicit operator bool() const { return code != KS_OK; }
};

inline ks_open_options OpenOptions(const char* directory, int32_t rank = 0, int32_t world_size = 1) {
  ks_open_options options{};
  options.struct_bytes = sizeof(options);
  options.directory = directory;
  options.rank = rank;
  options.world_size = world_size;
  return options;
}

inline ks_save_options SaveOptions() {
  ks_save_options options{};
  options.struct_bytes = sizeof(options);
  return options;
}

inline ks_load_options LoadLatest() {
  ks_load_options options{};
  options.struct_bytes = sizeof(options);
  options.latest = 1;
  options.strict = 1;
  return options;
}

inline ks_load_options LoadStep(int64_t step) {
  ks_load_options options = LoadLatest();
  options.latest = 0;
  options.step = step;
  return options;
}

// A load report that owns its names.
class LoadReport {
 public:
  LoadReport() = default;
  LoadReport(const LoadReport&) = delete;
  LoadReport& operator=(const LoadReport&) = delete;
  ~LoadReport() { Clear(); }

  const ks_load_report& operator*() const { return report_; }
  const ks_load_report* operator->() const { return &report_; }
  // For ks_load, which overwrites it.
  ks_load_report* Out() {
    Clear();
    return &report_;
  }

 private:
  void Clear() {
    ks_free(report_.missing);
    ks_free(report_.unexpected);
    report_ = ks_load_report{};
  }
  ks_load_report report_{};
};

// Thread-safe as keepstep.h says, but for Open, moves and destruction.
class Checkpointer {
 public:
  Error Open(const ks_open_options& options) {
    Error error;
    ks_client* client = nullptr;
    ks_open(&options, &client, &error);
    client_.reset(client);
    return error;
  }
  Error Register(const std::vector<ks_shard>& shards) {
    Error error;
    ks_register(client_.get(), shards.data(), shards.size(), &error);
    return error;
  }
  Error Save(int64_t step, uint64_t* number, const ks_save_options& options = SaveOptions()) {
    Error error;
    ks_save(client_.get(), step, &options, number, &error);
    return error;
  }
  Error BeforeUpdate(uint32_t group = 0, int64_t timeout_ms = -1) {
    Error error;
    ks_before_update(client_.get(), group, timeout_ms, &error);
    return error;
  }
  Error Wait(uint64_t number, ks_state state, ks_save_status* status, int64_t timeout_ms = -1) {
    Error error;
    ks_wait(client_.get(), number, state, timeout_ms, status, &error);
    return error;
  }
  Error Load(const ks_load_options& options, LoadReport* report) {
    Error error;
    ks_load(client_.get(), &options, report->Out(), &error);
    return error;
  }
  Error WishSave() {
    Error error;
    ks_wish_save(client_.get(), &error);
    return error;
  }
  bool ShouldSave(int64_t step, int64_t every) { return ks_should_save(client_.get(), step, every) != 0; }

  ks_client* get() const { return client_.get(); }

 private:
  struct Close {
    void operator()(ks_client* client) const { ks_close(client); }
  };
  std::unique_ptr<ks_client, Close> client_;
};

}  // namespace keepstep

#endif  // KEEPSTEP_CLIENT_KEEPSTEP_HPP_
