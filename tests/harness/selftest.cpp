// Tests that fail on purpose, on one rank only. CMakeLists.txt beside this file says what the
// harness must make of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "comm/mpi_session.h"

namespace {

using pg::comm::Communicator;

std::unique_ptr<pg::comm::Group> world() {
  return pg::comm::make_mpi_group(Communicator::world(), "world");
}

bool on_rank_1() {
  return Communicator::world().rank() == 1;
}

TEST(Selftest, passes) {
  EXPECT_EQ(all_reduce(*world(), std::int64_t{1}, pg::comm::ReduceOp::kSum),
            Communicator::world().size());
}

TEST(Selftest, expectation_fails) {
  EXPECT_FALSE(on_rank_1()) << "the expectation of rank 1";
}

TEST(Selftest, assertion_fails) {
  ASSERT_FALSE(on_rank_1()) << "the assertion of rank 1";
}

TEST(Selftest, exception_escapes) {
  if (on_rank_1()) throw std::runtime_error("the exception of rank 1");
}

TEST(Selftest, passes_after_failures) {
  EXPECT_EQ(all_reduce(*world(), std::int64_t{1}, pg::comm::ReduceOp::kSum),
            Communicator::world().size());
}

class TearDown : public testing::Test {
 protected:
  static void TearDownTestSuite() { EXPECT_FALSE(on_rank_1()) << "the tear-down of rank 1"; }
};
TEST_F(TearDown, fails) {}

// Ranks that run the tests in different orders meet here with different ids.
void same_test_everywhere(std::int64_t id) {
  const auto group = world();
  EXPECT_EQ(all_reduce(*group, id, pg::comm::ReduceOp::kMin),
            all_reduce(*group, id, pg::comm::ReduceOp::kMax));
}
TEST(Order, a) {
  same_test_everywhere(1);
}
TEST(Order, b) {
  same_test_everywhere(2);
}
TEST(Order, c) {
  same_test_everywhere(3);
}
TEST(Order, d) {
  same_test_everywhere(4);
}
TEST(Order, e) {
  same_test_everywhere(5);
}

// Rank 1 has left; rank 0 waits for it until the alarm kills it.
TEST(Hang, rank_0_waits_for_rank_1) {
  ASSERT_FALSE(on_rank_1()) << "the last words of rank 1";
  alarm(1);
  world()->barrier();
}

}  // namespace
