#include "daemon/state_collector.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/device_hub.h"
#include "daemon/device/owned_memory.h"
#include "daemon/kept_worlds.h"
#include "daemon/health.h"
#include "daemon/version.h"

namespace keepstep::daemon {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Label = ClientMetric::Label;

class Families {
 public:
  void Begin(const char* name, const char* help, MetricType type = MetricType::Gauge) {
    all_.push_back({.name = name, .help = help, .type = type, .metric = {}});
  }
  void Add(double value, std::vector<Label> labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    (all_.back().type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    all_.back().metric.push_back(std::move(metric));
  }
  void One(const char* name, const char* help, double value, std::vector<Label> labels = {}) {
    Begin(name, help);
    Add(value, std::move(labels));
  }
  std::vector<MetricFamily> Take() { return std::move(all_); }

 private:
  std::vector<MetricFamily> all_;
};

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  int64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t OpenDescriptors() {
  DIR* listing = opendir("/proc/self/fd");
  if (listing == nullptr) return 0;
  int64_t count = -3;  // ".", ".." and the listing's own
  while (readdir(listing) != nullptr) ++count;
  closedir(listing);
  return count;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void AddProcess(const ServerState& state, Families& to) {
  to.One("keepstep_build_info", "Version of keepstepd", 1, {{"version", kVersion}});
  to.One("keepstep_io_engine_info", "How files are read and written", 1, {{"engine", state.io_engine}});
  to.One("keepstep_ready", "1: new saves and loads are taken (/readyz)", CheckReady(state).ok() ? 1 : 0);
  to.One("keepstep_draining", "1: no new saves are taken", state.draining ? 1 : 0);
  const auto up = std::chrono::duration<double>(std::chrono::steady_clock::now() - state.started).count();
  to.One("keepstep_uptime_seconds", "Since the start", up);
  to.One("process_resident_memory_bytes", "Memory in use, staging memory included",
         static_cast<double>(ResidentBytes()));
  to.One("process_open_fds", "Open descriptors", static_cast<double>(OpenDescriptors()));
  to.Begin("process_cpu_seconds_total", "Processor time", MetricType::Counter);
  to.Add(CpuSeconds());
}

void AddPool(const ServerState& state, Families& to) {
  const StagingPool::Stats pool = state.plane->pool().stats();
  const int64_t cached_bytes = state.plane->cache().stats().idle_chunks * state.plane->pool().buffer_bytes();
  to.One("keepstep_pool_limit_bytes", "Most staging memory", static_cast<double>(pool.limit_bytes));
  to.One("keepstep_pool_capacity_bytes", "Staging memory that is there",
         static_cast<double>(pool.capacity_bytes));
  to.One("keepstep_pool_used_bytes", "Of it held, cached included", static_cast<double>(pool.used_bytes));
  to.One("keepstep_pool_cached_bytes", "Of it kept for loads to come", static_cast<double>(cached_bytes));
  to.One("keepstep_pool_high_water_bytes", "Most that was ever held",
         static_cast<double>(pool.high_water_bytes));
  to.One("keepstep_pool_waiters", "Copies and reads that wait for memory", static_cast<double>(pool.waiters));
}

void AddGpus(const ServerState& state, Families& to) {
  if (state.rescue != nullptr) {
    to.One("keepstep_rescue_kept_bytes", "GPU memory of dead trainers that is kept",
           static_cast<double>(state.rescue->kept_bytes()));
  }
  if (state.devices == nullptr) return;
  const DeviceHub::Counts& counts = state.devices->counts();
  to.One("keepstep_gpu_workers", "Device workers that run", static_cast<double>(state.devices->workers().size()));
  to.Begin("keepstep_gpu_workers_lost_total", "Device workers that CUDA, a hang or a signal ended", MetricType::Counter);
  to.Add(static_cast<double>(counts.workers_lost.load()));
  to.Begin("keepstep_gpu_mappings", "Trainers' GPU allocations that are mapped, by how they are shared");
  to.Add(static_cast<double>(counts.ipc_mappings.load()), {{"path", "ipc"}});
  to.Add(static_cast<double>(counts.descriptor_mappings.load()), {{"path", "vmm"}});
  to.Begin("keepstep_gpu_copied_bytes_total", "Between mapped GPU memory and staging memory", MetricType::Counter);
  to.Add(static_cast<double>(counts.bytes_from_gpus.load()), {{"direction", "from"}});
  to.Add(static_cast<double>(counts.bytes_to_gpus.load()), {{"direction", "to"}});
  const StagingPool::Stats pool = state.devices->pool().stats();
  to.Begin("keepstep_gpu_staging_taken_total",
           "Staging buffers taken for a GPU that is near a NUMA node, by where they lie", MetricType::Counter);
  to.Add(static_cast<double>(pool.taken_near), {{"where", "near"}});
  to.Add(static_cast<double>(pool.taken_elsewhere), {{"where", "elsewhere"}});
  to.One("keepstep_gpu_owned_bytes", "GPU memory that the daemon owns, lent or kept",
         static_cast<double>(state.owned->used_bytes()));
  const KeptWorlds::Counts kept = state.kept->counts();
  to.One("keepstep_gpu_kept_worlds", "Jobs whose dead trainers' memory is kept", static_cast<double>(kept.worlds));
  to.Begin("keepstep_warm_restarts_total", "Kept memory that was decided about", MetricType::Counter);
  to.Add(static_cast<double>(kept.warm), {{"outcome", "warm"}});
  to.Add(static_cast<double>(kept.cold), {{"outcome", "cold"}});
}

// Jobs that some session trains now.
std::set<const Job*> AddSessions(const ServerState& state, Families& to) {
  std::set<const Job*> training;
  int64_t pulling = 0, windowed = 0;
  for (const auto& session : state.sessions->All()) {
    ++(session->transfer() == proto::Transfer::kPull ? pulling : windowed);
    const auto member = session->membership();
    if (member.has_value() && member->training) training.insert(member->job.get());
  }
  to.Begin("keepstep_sessions", "Connected clients, by how their memory is reached");
  to.Add(static_cast<double>(pulling), {{"transfer", "pull"}});
  to.Add(static_cast<double>(windowed), {{"transfer", "window"}});
  return training;
}

void AddJobs(const ServerState& state, const Viewer& viewer, const std::set<const Job*>& training,
             Families& to) {
  const auto all = state.jobs->All();
  const double now = static_cast<double>(UnixMs());
  double oldest = 0;
  for (const auto& job : all) {
    const int64_t last = job->last_commit_unix_ms();
    if (last > 0 && training.contains(job.get()))
      oldest = std::max(oldest, (now - static_cast<double>(last)) / 1000);
  }
  to.One("keepstep_jobs", "Jobs known here", static_cast<double>(all.size()));
  to.One("keepstep_jobs_training", "Of them with a training session", static_cast<double>(training.size()));
  to.One("keepstep_oldest_commit_age_seconds", "The largest age of a last commit among jobs that train now",
         oldest);
  to.Begin("keepstep_last_commit_age_seconds",
           "Since the job's last commit; only jobs that the caller may see");
  size_t named = 0;
  for (const auto& job : VisibleTo(viewer, *state.jobs)) {
    const int64_t last = job->last_commit_unix_ms();
    if (last <= 0 || ++named > kMaxNamedJobs) continue;
    to.Add(std::max(0.0, (now - static_cast<double>(last)) / 1000),
           {{"job", job->label()}, {"directory", job->identity().path}});
  }
}

}  // namespace

std::vector<MetricFamily> CollectState(const ServerState& state, const Viewer& viewer) {
  Families families;
  AddProcess(state, families);
  AddPool(state, families);
  AddGpus(state, families);
  const std::set<const Job*> training = AddSessions(state, families);
  AddJobs(state, viewer, training, families);
  return families.Take();
}

}  // namespace keepstep::daemon
