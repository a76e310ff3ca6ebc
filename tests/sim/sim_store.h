// A disk that keeps only what it was made to keep. Fault model, in full:
//
//   - File data is volatile until flushed. A power loss leaves, of every 512-byte or 4-KiB sector of
//     unflushed data, the new bytes or zeros, and any length up to the file's.
//   - Directory entries (new, removed) are volatile until their directory is synced. A power loss keeps or
//     undoes each pending one on its own, in any order.
//   - A flush of file data may fail; then the data is lost although it can still be read, and the next
//     flush says OK.
//   - A sync of a directory may fail; its entries stay pending.
//   - Any operation may fail before it did anything (EIO, ENOSPC), or do its work and lose the reply.
//   - A daemon killed in the middle of an operation leaves it undone, done, or for a publish in between: a
//     temporary file, or the name without its sync.
//   - What was flushed and synced is kept. Reads are never wrong: damage at rest is another test.

#ifndef KEEPSTEP_TESTS_SIM_SIM_STORE_H_
#define KEEPSTEP_TESTS_SIM_SIM_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/store_op.h"
#include "tests/sim/random.h"

namespace keepstep::sim {

struct FaultRates {  // probabilities, per operation
  double error = 0, no_space = 0, lost_reply = 0, flush = 0, sync = 0;
};

class SimStore {
 public:
  explicit SimStore(Random& random)
      : random_(random), root_(std::make_shared<Node>(Node{.directory = true})) {}

  void set_faults(const FaultRates& faults) { faults_ = faults; }

  storage::StoreResult Run(const storage::StoreOp& op);
  void Interrupt(const storage::StoreOp& op);  // what a kill in its middle may leave
  absl::Status WriteBlob(absl::string_view path, std::string bytes);
  absl::Status FlushBlob(absl::string_view path);
  void PowerLoss();

  // Without faults. `durable`: as the worst power loss would leave it; null if it could be gone or torn. The
  // bytes are the store's, and good until its next change.
  const std::string* Read(absl::string_view path, bool durable) const;
  std::vector<std::pair<std::string, bool>> List(absl::string_view path) const;  // leaf, is it a directory

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  struct Less {  // finds without making a string
    using is_transparent = void;
    bool operator()(absl::string_view a, absl::string_view b) const { return a < b; }
  };
  using Entries = std::map<std::string, NodePtr, Less>;
  struct Node {
    bool directory = false;
    Entries seen, kept;    // entries of a directory
    bool pending = false;  // `seen` may differ from `kept`
    std::string bytes;
    bool flushed = false;  // of a file
    bool lost = false;     // a flush failed: no later one can keep it
  };

  Node* Walk(absl::string_view path, bool durable) const;
  Node& MakeDirectories(absl::string_view path);
  static void Put(Node& directory, absl::string_view leaf, Node file);
  absl::Status SyncTree(absl::string_view directory);
  absl::Status Publish(const storage::StoreOp& op);
  storage::StoreResult Perform(const storage::StoreOp& op);
  void Remove(absl::string_view path);
  void LosePower(Node& node);

  Random& random_;
  FaultRates faults_;
  NodePtr root_;
  int temporaries_ = 0;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_SIM_STORE_H_
