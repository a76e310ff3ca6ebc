// bench: what a save and a load cost on this machine, beside what the machine allows. About a minute, by
// itself: it saves random tensors of its own into a directory of its own, through the daemon that runs, and
// removes it.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/address.h"
#include "client/command/bench_limits.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/failure.h"
#include "client/keepstep.hpp"

namespace keepstep::client {
namespace {

constexpr int kTensors = 16, kRounds = 3;
constexpr int64_t kWaitMs = 120'000;

struct BenchOptions {
  std::string directory = ".";
  std::string size = "1GiB";
};

struct Row {
  std::string figure;
  double value = 0;
  std::string unit;       // "B/s", "s"
  std::string reference;  // empty: none
  double reference_value = 0;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::Status ToStatus(const keepstep::Error& error) {
  return MakeError(static_cast<absl::StatusCode>(error.code), error.reason, error.message);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A job of one rank that saves and loads its own random bytes.
class BenchJob {
 public:
  static absl::StatusOr<std::unique_ptr<BenchJob>> Make(const std::string& parent, const std::string& address,
                                                        int64_t size_bytes) {
    std::unique_ptr<BenchJob> job(new BenchJob);
    job->directory_ = absl::StrCat(parent, "/keepstep-bench-XXXXXX");
    if (mkdtemp(job->directory_.data()) == nullptr) {
      const std::string path = std::exchange(job->directory_, "");
      return absl::FailedPreconditionError(absl::StrCat("cannot make ", path, ": ", strerror(errno)));
    }
    job->values_.resize(static_cast<size_t>(size_bytes) / sizeof(uint64_t));
    std::mt19937_64 random(1);
    for (uint64_t& value : job->values_) value = random();
    ks_open_options options = keepstep::OpenOptions(job->directory_.c_str());
    options.address = address.c_str();
    if (keepstep::Error error = job->checkpointer_.Open(options); error) return ToStatus(error);
    const absl::Status status = job->Register();
    if (!status.ok()) return status;
    return job;
  }
  ~BenchJob() {
    checkpointer_ = {};
    std::error_code error;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, error);
  }

  struct Save {
    double call = 0, copied = 0, committed = 0;  // seconds
  };
  absl::StatusOr<Save> SaveOnce(int64_t step) {
    Save times;
    const double begin = Seconds();
    uint64_t number = 0;
    if (keepstep::Error error = checkpointer_.Save(step, &number); error) return ToStatus(error);
    times.call = Seconds() - begin;
    if (keepstep::Error error = checkpointer_.BeforeUpdate(0, kWaitMs); error) return ToStatus(error);
    times.copied = Seconds() - begin;
    ks_save_status status{};
    if (keepstep::Error error = checkpointer_.Wait(number, KS_COMMITTED, &status, kWaitMs); error)
      return ToStatus(error);
    if (status.state != KS_COMMITTED)
      return MakeError(static_cast<absl::StatusCode>(status.error.code), status.error.reason,
                       status.error.message);
    times.committed = Seconds() - begin;
    return times;
  }

  absl::StatusOr<double> LoadOnce() {
    keepstep::LoadReport report;
    const double begin = Seconds();
    if (keepstep::Error error = checkpointer_.Load(keepstep::LoadLatest(), &report); error)
      return ToStatus(error);
    return Seconds() - begin;
  }

 private:
  BenchJob() = default;

  absl::Status Register() {
    const int64_t each = static_cast<int64_t>(values_.size()) / kTensors;
    std::vector<std::string> names;
    for (int i = 0; i < kTensors; ++i) names.push_back(absl::StrCat("tensor.", i));
    std::vector<ks_shard> shards;
    const int64_t origin = 0;
    const ks_box box{.origin = &origin, .shape = &each, .strides_bytes = nullptr, .offset_bytes = 0};
    for (int i = 0; i < kTensors; ++i) {
      ks_shard shard{};
      shard.fqn = names[i].c_str();
      shard.dtype = "U64";
      shard.global_shape = &each;
      shard.ndim = 1;
      shard.component = KS_MODEL;
      shard.data = values_.data() + i * each;
      shard.data_bytes = each * static_cast<int64_t>(sizeof(uint64_t));
      shard.where = KS_BOXES;
      shard.boxes = &box;
      shard.box_count = 1;
      shards.push_back(shard);
    }
    const keepstep::Error error = checkpointer_.Register(shards);
    return error ? ToStatus(error) : absl::OkStatus();
  }

  std::string directory_;
  std::vector<uint64_t> values_;
  keepstep::Checkpointer checkpointer_;
};

absl::StatusOr<std::vector<Row>> Measure(const std::string& directory, const Address& address,
                                         int64_t size_bytes) {
  const double bytes = static_cast<double>(size_bytes);
  std::vector<Row> rows;
  fprintf(stderr, "memory …\n");
  const double copy = MeasureCopy(std::min<int64_t>(size_bytes, 512 << 20), false);
  const double digest = MeasureCopy(std::min<int64_t>(size_bytes, 512 << 20), true);
  fprintf(stderr, "disk …\n");
  auto disk = MeasureDisk(directory, size_bytes);
  if (!disk.ok()) return disk.status();
  auto call = MeasureRoundTrip(address.grpc_path);
  if (!call.ok()) return call.status();
  fprintf(stderr, "save and load through the daemon …\n");
  auto job = BenchJob::Make(directory, absl::StrCat("unix://", address.grpc_path), size_bytes);
  if (!job.ok()) return job.status();
  std::vector<double> calls, copied, committed, loads;
  for (int round = 0; round <= kRounds; ++round) {
    auto save = (*job)->SaveOnce(round + 1);
    if (!save.ok()) return save.status();
    if (round == 0) continue;  // the pool grows in the first one
    calls.push_back(save->call);
    copied.push_back(save->copied);
    committed.push_back(save->committed);
  }
  for (int round = 0; round < kRounds; ++round) {
    auto load = (*job)->LoadOnce();
    if (!load.ok()) return load.status();
    loads.push_back(*load);
  }
  const std::string how = disk->direct ? "direct" : "buffered";
  return std::vector<Row>{
      {"memcpy", copy, "B/s", "", 0},
      {"memcpy and XXH3-128", digest, "B/s", "", 0},
      {absl::StrCat(how, " write"), disk->write, "B/s", "", 0},
      {absl::StrCat(how, " read"), disk->read, "B/s", "", 0},
      {"one call", *call, "s", "", 0},
      {"save: the call", Median(calls), "s", "one call", *call},
      {"save: tensors free again", bytes / Median(copied), "B/s", "memcpy", copy},
      {"save: committed", bytes / Median(committed), "B/s", absl::StrCat(how, " write"), disk->write},
      {"load: warm, verified", bytes / Median(loads), "B/s", "memcpy and XXH3-128", digest},
  };
}

std::string Text(double value, const std::string& unit) {
  if (unit == "B/s") return absl::StrFormat("%.2f GB/s", value / 1e9);
  return value < 1e-3 ? absl::StrFormat("%.0f us", value * 1e6) : absl::StrFormat("%.2f ms", value * 1e3);
}

void Print(const Globals& globals, const std::vector<Row>& rows) {
  if (globals.json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const Row& row : rows) {
      nlohmann::ordered_json one = {{"figure", row.figure}, {"value", row.value}, {"unit", row.unit}};
      if (!row.reference.empty()) {
        one["reference"] = row.reference;
        one["reference_value"] = row.reference_value;
        one["ratio"] = row.value / row.reference_value;
      }
      out.push_back(std::move(one));
    }
    printf("%s\n", out.dump(2).c_str());
    return;
  }
  Table table({"FIGURE", "VALUE", "BESIDE", "", "RATIO"}, {1, 3, 4});
  for (const Row& row : rows) {
    if (row.reference.empty()) {
      table.Add({row.figure, Text(row.value, row.unit), "", "", ""});
    } else {
      table.Add({row.figure, Text(row.value, row.unit), row.reference, Text(row.reference_value, row.unit),
                 absl::StrFormat("%.2f", row.value / row.reference_value)});
    }
  }
  fputs(table.Render().c_str(), stdout);
}

int RunBench(const Globals& globals, const BenchOptions& options) {
  const int64_t size_bytes = ParseBytes(options.size);
  constexpr int64_t kLeast = 16 << 20, kMost = int64_t{64} << 30;
  if (size_bytes < kLeast || size_bytes > kMost)
    return Complain(absl::InvalidArgumentError(options.size + " is no size from 16MiB to 64GiB"),
                    "keepstep bench --size 1GiB");
  auto address = ParseAddress(globals.address.empty() ? DefaultAddress() : globals.address);
  if (!address.ok()) return Complain(address.status());
  if (!globals.roots.empty())
    return Complain(absl::InvalidArgumentError("bench saves: it needs a daemon, not --root"), "keepstep up");
  if (auto daemon = Connection::Open(globals); !daemon.ok()) return Complain(daemon.status());
  const std::string directory = std::filesystem::absolute(options.directory).lexically_normal().string();
  auto rows = Measure(directory, *address, size_bytes / kTensors / 8 * kTensors * 8);
  if (!rows.ok()) return Complain(rows.status(), "keepstep doctor");
  Print(globals, *rows);
  return 0;
}

}  // namespace

void AddBench(Program& program) {
  auto options = std::make_shared<BenchOptions>();
  auto* bench = program.Add(kRun, "bench", "What a save and a load cost here, beside memcpy and the disk",
                            [&program, options] { return RunBench(program.globals(), *options); });
  bench->add_option("--directory", options->directory, "Where to write; what is written is removed again")
      ->capture_default_str();
  bench->add_option("--size", options->size, "Bytes of one save")->capture_default_str();
}

}  // namespace keepstep::client
