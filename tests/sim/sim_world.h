// A whole run from one seed: a disk, a daemon, trainers, and everything that can go wrong with them, in
// virtual time.
//
// For a few seconds of virtual time fate kills, freezes, cuts and starves; then it stops, training ends, and
// all saves must be decided within kSettleMs. A clean restart of the daemon and a power loss follow, and the
// checker judges.

#ifndef KEEPSTEP_TESTS_SIM_SIM_WORLD_H_
#define KEEPSTEP_TESTS_SIM_SIM_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/clock.h"
#include "tests/sim/mutation.h"
#include "tests/sim/random.h"
#include "tests/sim/sim_daemon.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/sim_trainer.h"
#include "tests/sim/trace.h"

namespace keepstep::sim {

struct RunResult {
  Findings findings;
  uint64_t trace_hash = 0;
  int64_t commits = 0, rescues = 0, rescues_begun = 0, deletions = 0, verdicts = 0;
  int64_t daemon_deaths = 0, power_losses = 0, trainer_deaths = 0;
  uint64_t events = 0;
};

RunResult RunSeed(uint64_t seed, Mutation mutation = Mutation::kNone, bool print_trace = false);

class SimWorld : private TrainerSide, private TrainerHost {
 public:
  SimWorld(uint64_t seed, Mutation mutation, bool print_trace);

  RunResult Run();

 private:
  bool CopyGroup(daemon::SessionId session, int32_t rank, int group, bool kept, std::string* content) override;
  proto::FlightRecord Record(daemon::SessionId session) override;
  void Deliver(daemon::SessionId session, const daemon::Action& action) override;
  bool Sealed(daemon::SessionId session, uint64_t number) override;
  daemon::SessionId NewSession(SimTrainer& trainer) override;
  bool MayTrainOn(const SimTrainer& trainer) override;
  void OnAdvanced() override;
  void OnExit(SimTrainer& trainer) override;
  bool stopping() const override { return stopping_; }

  void Launch(int32_t rank, int64_t delay_ms);
  void KillAll();
  void Strike();  // one misfortune, and the next one's time
  void KillDaemon(bool power);
  void RestartDaemon(int64_t delay_ms, int deaths_left);
  void Storm();
  void CheckSettled();

  Random random_;
  Trace trace_;
  Clock clock_;
  SimStore store_;
  Checker checker_;
  SimDaemon daemon_;
  TrainerPlan plan_;
  std::vector<std::unique_ptr<SimTrainer>> trainers_;  // every process there ever was
  std::vector<SimTrainer*> current_;                   // by rank, as its launcher sees it
  std::map<daemon::SessionId, SimTrainer*> sessions_;
  daemon::SessionId last_session_ = 0;
  int32_t planned_restarts_ = 0;
  bool stopping_ = false, calm_ = false;
  int64_t strike_every_ms_ = 300;
  RunResult result_;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_SIM_WORLD_H_
