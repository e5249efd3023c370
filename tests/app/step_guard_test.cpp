// The rule for steps without an update, on made-up losses.
#include "app/step_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "comm/error.h"

namespace pg::testing {
namespace {

using app::StepGuard;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string plain(StepGuard& guard, double loss) {
  return guard.judge(loss, 0, 1);
}

// Losses 3 +- 0.5 in turn: the deviation of n of them is 0.5 sqrt(n / (n - 1)) for even n.
StepGuard fed(std::int64_t losses, double sigma) {
  StepGuard guard(sigma, 3);
  for (std::int64_t i = 0; i < losses; ++i) plain(guard, i % 2 == 0 ? 2.5 : 3.5);
  return guard;
}

TEST(StepGuard, what_is_not_finite_gets_no_update_whichever_number_it_is) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {kNaN, infinity, -infinity}) {
    StepGuard guard(0, 100);
    EXPECT_EQ(guard.judge(bad, 0, 1), "not finite");
    EXPECT_EQ(guard.judge(3, bad, 1), "not finite");
    EXPECT_EQ(guard.judge(3, 0, bad), "not finite");
    EXPECT_EQ(guard.judge(3, 0, 1), "");
    EXPECT_EQ(guard.not_finite(), 3);
    EXPECT_EQ(guard.skipped(), 3);
  }
}

TEST(StepGuard, a_loss_above_mean_and_sigmas_is_a_spike) {
  auto guard = fed(40, 4);
  const double limit = 3 + 4 * 0.5 * std::sqrt(40.0 / 39.0);
  EXPECT_NEAR(guard.limit(), limit, 1e-12);
  EXPECT_EQ(plain(guard, limit + 1e-9), "spike");
  EXPECT_NEAR(guard.limit(), limit, 1e-12) << "a skipped loss has entered the window";
  EXPECT_EQ(plain(guard, limit - 1e-9), "");
  EXPECT_EQ(plain(guard, -100), "") << "a fall is no spike";
  EXPECT_EQ(guard.spikes(), 1);
}

TEST(StepGuard, without_sigma_and_with_few_losses_nothing_is_a_spike) {
  auto off = fed(40, 0);
  EXPECT_EQ(plain(off, 1e30), "");
  auto few = fed(19, 4);
  EXPECT_EQ(plain(few, 1e3), "");
  auto enough = fed(20, 4);
  EXPECT_EQ(plain(enough, 1e3), "spike");
}

TEST(StepGuard, losses_that_hardly_move_have_the_floor_s_deviation) {
  StepGuard guard(4, 3);
  for (int i = 0; i < 30; ++i) plain(guard, 2.0);
  EXPECT_EQ(plain(guard, 2.0 * (1 + 3.9 / 256)), "");
  EXPECT_EQ(plain(guard, 2.0 * (1 + 4.5 / 256)), "spike");
}

TEST(StepGuard, the_window_forgets_the_fall_at_the_start) {
  StepGuard guard(4, 3);
  for (int i = 0; i < 30; ++i) plain(guard, 11.0 - i * 0.2);
  EXPECT_EQ(plain(guard, 8.0), "") << "within the spread of the fall";
  for (std::size_t i = 0; i < StepGuard::kWindow; ++i) plain(guard, i % 2 == 0 ? 2.9 : 3.1);
  EXPECT_EQ(plain(guard, 8.0), "spike");
}

TEST(StepGuard, only_skips_in_a_row_give_up) {
  auto guard = fed(40, 4);
  plain(guard, kNaN);
  plain(guard, 1e3);
  EXPECT_FALSE(guard.given_up());
  plain(guard, 3);
  plain(guard, 1e3);
  plain(guard, kNaN);
  EXPECT_FALSE(guard.given_up());
  plain(guard, kNaN);
  EXPECT_TRUE(guard.given_up());
  EXPECT_EQ(guard.in_a_row(), 3);
  EXPECT_EQ(guard.skipped(), 5);
}

TEST(StepGuard, what_it_remembers_comes_back_to_the_last_digit) {
  StepGuard guard(4, 3);
  for (int i = 0; i < 130; ++i) plain(guard, 3 + std::sin(i));
  plain(guard, kNaN);
  StepGuard other(4, 3);
  other.restore(guard.text());
  EXPECT_EQ(other.text(), guard.text());
  EXPECT_EQ(other.limit(), guard.limit());
  EXPECT_EQ(other.in_a_row(), 1);
  for (const char* none : {"", "{}"}) {
    other.restore(none);
    EXPECT_EQ(other.text(), StepGuard(4, 3).text());
  }
}

TEST(StepGuard, a_text_that_is_none_of_its_own_is_refused_and_changes_nothing) {
  auto guard = fed(25, 4);
  const auto before = guard.text();
  for (const char* text :
       {"[", "[]", "3", R"({"spikes": -1})", R"({"spikes": 1.5})", R"({"in_a_row": "2"})",
        R"({"losses": 3})", R"({"losses": [1, null]})", R"({"losses": [1e999]})"}) {
    try {
      guard.restore(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint) << text;
    }
    EXPECT_EQ(guard.text(), before) << text;
  }
}

}  // namespace
}  // namespace pg::testing
