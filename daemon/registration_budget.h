// Memory of the registrations of all sessions together: clients decide how much they register, so it is
// counted and has a limit.

#ifndef KEEPSTEP_DAEMON_REGISTRATION_BUDGET_H_
#define KEEPSTEP_DAEMON_REGISTRATION_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace keepstep::daemon {

// The default: room for the largest rank with the generations of it that are kept.
inline constexpr int64_t kRegistrationBytes = int64_t{4} << 30;

// Thread-safe.
class RegistrationBudget {
 public:
  explicit RegistrationBudget(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // A lower one refuses what is asked for from now on; what was taken stays.
  void SetLimit(int64_t limit_bytes) { limit_bytes_ = limit_bytes; }

  // False, and nothing taken, beyond the limit.
  bool Take(int64_t bytes) {
    if (used_bytes_.fetch_add(bytes) + bytes <= limit_bytes_) return true;
    used_bytes_.fetch_sub(bytes);
    return false;
  }
  void GiveBack(int64_t bytes) { used_bytes_.fetch_sub(bytes); }

  int64_t used_bytes() const { return used_bytes_; }
  int64_t limit_bytes() const { return limit_bytes_; }

 private:
  std::atomic<int64_t> limit_bytes_;
  std::atomic<int64_t> used_bytes_{0};
};

// What one registration has taken, given back when it goes. Movable; the one moved from holds nothing.
class RegistrationCharge {
 public:
  RegistrationCharge() = default;
  explicit RegistrationCharge(std::shared_ptr<RegistrationBudget> budget) : budget_(std::move(budget)) {}
  RegistrationCharge(RegistrationCharge&& other) noexcept { *this = std::move(other); }
  RegistrationCharge& operator=(RegistrationCharge&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~RegistrationCharge() {
    if (budget_ != nullptr) budget_->GiveBack(bytes_);
  }

  bool Add(int64_t bytes) {
    if (!budget_->Take(bytes)) return false;
    bytes_ += bytes;
    return true;
  }

 private:
  std::shared_ptr<RegistrationBudget> budget_;
  int64_t bytes_ = 0;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_REGISTRATION_BUDGET_H_
