// What the records of dead ranks prove together, and how host memory is read out of one.

#include "daemon/rescue_steps.h"

#include <cstring>

#include "daemon/record_port.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

RankStep At(int32_t rank, int64_t step) { return {.rank = rank, .step = step}; }

TEST(RescueJudge, OneStepOnAllRanksIsNeededAndTheOthersAreNamed) {
  EXPECT_EQ(WhyNoRescue({At(0, 42), At(1, 42), At(2, 42)}), "");
  EXPECT_EQ(WhyNoRescue({At(0, 42), At(1, 42), At(2, 41)}), "rank 2 was at step 41, the others at 42");
  EXPECT_EQ(WhyNoRescue({At(0, 43), At(1, 42), At(2, 41), At(3, 42)}),
            "rank 0 was at step 43, rank 2 was at step 41, the others at 42");
  EXPECT_EQ(WhyNoRescue({At(0, 41), At(1, 42)}), "rank 0 was at step 41, the others at 42");
  EXPECT_EQ(WhyNoRescue({At(0, 42), {.rank = 1, .why = "it had noted no step"}}), "rank 1: it had noted no step");
}

class RecordPortTest : public testing::Test {
 protected:
  // Entries of host memory at these addresses, whose bytes are their addresses' low ones.
  void Hold(std::vector<proto::FlightEntry> entries) {
    auto note = std::make_shared<proto::FlightNote>();
    note->entries = std::move(entries);
    for (const proto::FlightEntry& entry : note->entries) {
      for (uint64_t i = 0; i < entry.size_bytes; ++i) note->host.push_back(static_cast<char>(entry.address + i));
    }
    port_ = std::make_unique<RecordPort>(note);
  }
  absl::Status Read(uint64_t address, int64_t size_bytes) {
    bytes_.assign(size_bytes, std::byte{0});
    return port_->Read({{address, bytes_.data(), size_bytes}}, cancel_);
  }
  void ExpectExact(uint64_t address, int64_t size_bytes) {
    ASSERT_TRUE(Read(address, size_bytes).ok());
    for (int64_t i = 0; i < size_bytes; ++i)
      ASSERT_EQ(bytes_[i], static_cast<std::byte>(address + i)) << address << " + " << i;
  }

  Cancellation cancel_;
  std::unique_ptr<RecordPort> port_;
  std::vector<std::byte> bytes_;
};

// Runs of neighbours are joined on their way here.
TEST_F(RecordPortTest, ReadsAcrossBuffersThatTouch) {
  Hold({{2000, 100}, {1000, 50}, {1050, 950}});
  ExpectExact(1000, 50);
  ExpectExact(1000, 1100);
  ExpectExact(1049, 2);
  EXPECT_TRUE(absl::IsOutOfRange(Read(999, 2)));
  EXPECT_TRUE(absl::IsOutOfRange(Read(2099, 2)));
  EXPECT_TRUE(absl::IsOutOfRange(Read(5000, 1)));
}

TEST_F(RecordPortTest, ReadsBuffersThatLieOverEachOther) {
  Hold({{1000, 500}, {1100, 50}, {1400, 300}, {1000, 500}});
  ExpectExact(1000, 700);
  ExpectExact(1120, 300);
}

TEST_F(RecordPortTest, HoldsWhatAClientMakesUpWithinBounds) {
  Hold({{UINT64_MAX - 3, 16}, {1000, 10}});
  EXPECT_TRUE(absl::IsOutOfRange(Read(UINT64_MAX - 2, 1)));
  ExpectExact(1000, 10);
  EXPECT_FALSE(port_->Write({}, cancel_).ok());
}

}  // namespace
}  // namespace keepstep::daemon
