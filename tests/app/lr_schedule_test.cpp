#include "app/lr_schedule.h"

#include <gtest/gtest.h>

namespace pg::app {
namespace {

constexpr double kPeak = 1.0;

ScheduleSection schedule(LrKind kind) {
  return {.kind = kind, .warmup = 10, .min_lr = 0.1, .decay = 20};
}

TEST(LrSchedule, warms_up_linearly_and_reaches_the_peak_at_its_last_step) {
  for (const auto kind : {LrKind::kCosine, LrKind::kWsd, LrKind::kLinear, LrKind::kConstant}) {
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), kPeak, 110, 1), 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), kPeak, 110, 5), 0.5);
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind), kPeak, 110, 10), 1.0);
  }
}

TEST(LrSchedule, ends_at_the_least_rate_except_constant) {
  for (const auto kind : {LrKind::kCosine, LrKind::kWsd, LrKind::kLinear}) {
    EXPECT_NEAR(learning_rate(schedule(kind), kPeak, 110, 110), 0.1, 1e-15);
    // A resumed run with more steps than planned stays there.
    EXPECT_NEAR(learning_rate(schedule(kind), kPeak, 110, 200), 0.1, 1e-15);
  }
  EXPECT_DOUBLE_EQ(learning_rate(schedule(LrKind::kConstant), kPeak, 110, 110), 1.0);
}

TEST(LrSchedule, is_half_way_in_the_middle) {
  EXPECT_NEAR(learning_rate(schedule(LrKind::kCosine), kPeak, 110, 60), 0.55, 1e-15);
  EXPECT_NEAR(learning_rate(schedule(LrKind::kLinear), kPeak, 110, 60), 0.55, 1e-15);
  // cos(pi/4)
  EXPECT_NEAR(learning_rate(schedule(LrKind::kCosine), kPeak, 110, 35),
              0.1 + 0.9 * 0.5 * (1 + 0.70710678118654752), 1e-15);
}

TEST(LrSchedule, wsd_is_stable_until_its_decay) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule(LrKind::kWsd), kPeak, 110, 90), 1.0);
  EXPECT_NEAR(learning_rate(schedule(LrKind::kWsd), kPeak, 110, 100), 0.55, 1e-15);
}

TEST(LrSchedule, wsd_without_a_decay_keeps_the_peak) {
  auto s = schedule(LrKind::kWsd);
  s.decay = 0;
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 110, 60), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 110, 110), 1.0);
}

TEST(LrSchedule, without_warmup_starts_at_the_curve) {
  auto s = schedule(LrKind::kCosine);
  s.warmup = 0;
  EXPECT_LT(learning_rate(s, kPeak, 100, 1), 1.0);
  EXPECT_GT(learning_rate(s, kPeak, 100, 1), 0.99);
}

}  // namespace
}  // namespace pg::app
