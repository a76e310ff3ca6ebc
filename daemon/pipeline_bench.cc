// What the data plane itself costs: one rank's save and loads against memcpy on the same machine, in the
// same run.
//
//   bazel run -c opt //daemon:pipeline_bench -- [--directory DIR] [--bytes N] [--repeats N]
//
// Prints one line a figure: the median with minimum and maximum, in MB/s. The first save, which faults
// staging in, is apart. Save ends with the flush of every file; cold loads start with the block cache
// emptied and the page cache dropped for the files; warm loads find the blocks in the pool.

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "daemon/pipeline_test_job.h"
#include "storage/file_store.h"
#include "storage/io_engine.h"

namespace keepstep::daemon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTensorBytes = int64_t{16} << 20;

struct Flags {
  std::string directory = "/tmp";
  int64_t bytes = int64_t{1} << 30;
  int repeats = 7;
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "pipeline_bench: %s\n", what.c_str());
  std::exit(1);
}

class Figure {
 public:
  explicit Figure(const char* name) : name_(name) {}

  template <typename Fn>
  void Time(int64_t bytes, Fn&& fn) {
    const auto begin = Clock::now();
    fn();
    rates_.push_back(static_cast<double>(bytes) / 1e6 /
                     std::chrono::duration<double>(Clock::now() - begin).count());
  }
  void Print() {
    std::sort(rates_.begin(), rates_.end());
    std::printf("%-24s %8.0f MB/s  [%.0f, %.0f]\n", name_, rates_[rates_.size() / 2], rates_.front(),
                rates_.back());
  }

 private:
  const char* const name_;
  std::vector<double> rates_;
};

// One rank with tensors of 16 MiB in the model and twice as many in the optimizer.
reshard::World MakeWorld(int64_t bytes) {
  reshard::World world;
  world.ranks.resize(1);
  world.buffer_bytes.resize(1);
  const int64_t columns = 4096;
  for (int64_t i = 0; i < std::max<int64_t>(bytes / kTensorBytes, 1); ++i) {
    const reshard::Dims shape = {kTensorBytes / 4 / columns, columns};
    const auto component = i % 3 == 0 ? reshard::Component::kModel : reshard::Component::kOptimizer;
    reshard::TensorShard shard{{"tensor." + std::to_string(i), reshard::DType::kF32, shape, component},
                               static_cast<uint32_t>(i),
                               {reshard::RowMajorLayout(reshard::WholeBox(shape), 4)},
                               {},
                               0,
                               false};
    world.ranks[0].shards.push_back(std::move(shard));
    world.buffer_bytes[0].push_back(kTensorBytes);
  }
  return world;
}

void DropPageCache(const std::string& directory) {
  sync();
  DIR* listing = opendir(directory.c_str());
  if (listing == nullptr) return;
  while (const dirent* entry = readdir(listing)) {
    const int fd = open((directory + "/" + entry->d_name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
  closedir(listing);
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--directory") {
      flags.directory = argv[i + 1];
    } else if (name == "--bytes") {
      flags.bytes = std::atoll(argv[i + 1]);
    } else if (name == "--repeats") {
      flags.repeats = std::atoi(argv[i + 1]);
    } else {
      Die("unknown flag " + name);
    }
  }
  if (flags.bytes <= 0 || flags.repeats <= 0) Die("--bytes and --repeats are positive");
  return flags;
}

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags), world_(MakeWorld(flags.bytes)), rank_(world_, 0) {
    directory_ = flags.directory + "/keepstep-bench-XXXXXX";
    if (mkdtemp(directory_.data()) == nullptr) Die("cannot make a directory in " + flags.directory);
    auto engine = storage::MakeIoEngine({});
    if (!engine.ok()) Die(engine.status().ToString());
    std::printf("engine %s, %lld bytes\n", engine->name.c_str(), static_cast<long long>(Bytes()));
    engine_ = std::move(engine->engine);
    storage::UniqueFd root(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto store = storage::FileStore::Start(std::move(root), engine_.get(), {});
    if (!store.ok()) Die(store.status().ToString());
    DataPlaneSpec spec;
    spec.pool.limit_bytes = flags.bytes * 5 / 4 + (int64_t{64} << 20);
    auto plane = DataPlane::Start(spec);
    if (!plane.ok()) Die(plane.status().ToString());
    plane_ = *std::move(plane);
    job_ = std::make_unique<TestJob>(plane_.get(), *std::move(store));
  }
  ~Bench() {
    job_.reset();
    const std::string command = "rm -rf '" + directory_ + "'";
    if (std::system(command.c_str()) != 0) std::fprintf(stderr, "left behind: %s\n", directory_.c_str());
  }

  void Run() {
    Figure memcpy_figure("memcpy, one thread"), first("save, first"), save("save");
    Figure first_snapshot("snapshot, first"), snapshot("snapshot");
    Figure cold("load, cold"), warm("load, warm");
    for (int i = 0; i <= flags_.repeats; ++i) {
      memcpy_figure.Time(Bytes(), [&] { CopyAll(); });
      const auto from = SaveOnce(i, i == 0 ? first : save, i == 0 ? first_snapshot : snapshot);
      warm.Time(Bytes(), [&] { LoadAll(from); });
      plane_->cache().Invalidate("job/");
      DropPageCache(directory_ + "/" + Directory(i));
      cold.Time(Bytes(), [&] { LoadAll(from); });
      if (absl::Status status = storage::DeleteTree(*job_->store(), *storage::BlobPath::Parse(Directory(i)));
          !status.ok())
        Die(status.ToString());
      plane_->cache().Invalidate("job/");
    }
    for (Figure* figure : {&memcpy_figure, &first_snapshot, &first, &snapshot, &save, &cold, &warm})
      figure->Print();
  }

 private:
  static std::string Directory(int i) {
    return "00000000000" + std::to_string(i % 10) + "/e1-a1-0123456789abcdef";
  }
  int64_t Bytes() const { return static_cast<int64_t>(world_.buffer_bytes[0].size()) * kTensorBytes; }

  void CopyAll() {
    static std::vector<std::byte> to(kTensorBytes, std::byte{1});
    for (uint64_t address : rank_.addresses())
      std::memcpy(to.data(), reinterpret_cast<const void*>(address), kTensorBytes);
  }

  std::shared_ptr<const StoredCheckpoint> SaveOnce(int i, Figure& save, Figure& snapshot) {
    job_->set_directory(Directory(i));
    const auto plan = std::make_shared<const reshard::SavePlan>(*reshard::MakeSavePlan(world_.ranks));
    SaveRecord record;
    save.Time(Bytes(), [&] {
      std::unique_ptr<SavePipeline> pipeline;
      snapshot.Time(Bytes(), [&] {
        pipeline = StartSave(*plane_, job_->Spec(rank_, plan, 1), record.callbacks());
        record.AwaitGroup(0);
      });
      record.AwaitEnd();
    });
    if (!record.flushed()) Die(record.status().ToString());
    const SavedShare* const share = &record.share();
    auto from = job_->Open({BuildPart("e1-a1-0123456789abcdef", 0, 1, {&share, 1}, v1::Decision())});
    if (!from.ok()) Die(from.status().ToString());
    return *from;
  }

  void LoadAll(const std::shared_ptr<const StoredCheckpoint>& from) {
    if (absl::StatusOr<LoadStats> stats = job_->Load(from, rank_); !stats.ok())
      Die(stats.status().ToString());
  }

  const Flags flags_;
  std::string directory_;
  const reshard::World world_;
  RankBuffers rank_;
  std::unique_ptr<storage::IoEngine> engine_;
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<TestJob> job_;
};

}  // namespace
}  // namespace keepstep::daemon

int main(int argc, char** argv) {
  keepstep::daemon::Bench(keepstep::daemon::ParseFlags(argc, argv)).Run();
  return 0;
}
