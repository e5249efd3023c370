#include "model/pipeline/simulate.h"

#include <gtest/gtest.h>

#include "comm/error.h"
#include "tests/model/pipeline/shapes.h"

namespace pg::model {
namespace {

PipelineCosts equal_costs(const ScheduleShape& shape, double forward, double backward) {
  const auto n = static_cast<std::size_t>(shape.stages * shape.chunks);
  return {std::vector<double>(n, forward), std::vector<double>(n, backward), 0.0};
}

// Small whole numbers: sums are exact in doubles, so makespan and busy time are compared exactly.
void expect_published_share(const ScheduleShape& shape,
                            const std::vector<std::vector<Action>>& lists, double forward,
                            double backward) {
  const auto timing = simulate(shape, lists, equal_costs(shape, forward, backward));
  const int work = shape.chunks * shape.micro_batches;
  EXPECT_EQ(timing.makespan, (work + shape.stages - 1) * (forward + backward))
      << text(shape) << " F " << forward << " B " << backward;
  for (const double busy : timing.busy) EXPECT_EQ(busy, work * (forward + backward));
  // Two quotients and a difference, all at most 1: each rounds by at most 2^-53.
  EXPECT_NEAR(timing.idle_share(), ideal_idle_share(shape), 0x3p-53) << text(shape);
}

TEST(Simulate, equal_stages_idle_for_the_published_share) {
  for (const auto& shape : legal_shapes()) {
    const auto lists = make_schedules(shape);
    expect_published_share(shape, lists, 1.0, 1.0);
    const auto early = with_early_sends(lists);
    for (const auto& [forward, backward] :
         {std::pair(1.0, 1.0), std::pair(1.0, 2.0), std::pair(2.0, 3.0), std::pair(2.0, 1.0)}) {
      expect_published_share(shape, early, forward, backward);
    }
  }
}

// One chunk a stage: the places of sends cost nothing, whatever a backward costs.
TEST(Simulate, one_chunk_a_stage_needs_no_early_sends) {
  for (const auto& shape : legal_shapes()) {
    if (shape.chunks == 1) expect_published_share(shape, make_schedules(shape), 1.0, 2.0);
  }
}

TEST(Simulate, interleaved_loses_time_without_early_sends) {
  const ScheduleShape shape{ScheduleKind::kInterleaved, 4, 2, 16};
  const auto lists = make_schedules(shape);
  const auto costs = equal_costs(shape, 1.0, 2.0);
  EXPECT_GT(simulate(shape, lists, costs).makespan,
            simulate(shape, with_early_sends(lists), costs).makespan);
}

TEST(Simulate, the_ideal_share_is_the_papers_fraction) {
  EXPECT_DOUBLE_EQ(ideal_idle_share({ScheduleKind::k1F1B, 4, 1, 8}), 3.0 / 11.0);
  EXPECT_DOUBLE_EQ(ideal_idle_share({ScheduleKind::kInterleaved, 4, 2, 8}), 3.0 / 19.0);
  EXPECT_DOUBLE_EQ(ideal_idle_share({ScheduleKind::kGPipe, 1, 1, 8}), 0.0);
}

TEST(Simulate, forward_schedules_of_full_groups_fill_the_pipeline_once) {
  for (int stages = 2; stages <= 6; ++stages) {
    for (int chunks = 1; chunks <= 3; ++chunks) {
      const ScheduleShape shape{ScheduleKind::kInterleaved, stages, chunks, 3 * stages};
      const auto timing =
          simulate(shape, make_forward_schedules(shape), equal_costs(shape, 2.0, 0.0));
      EXPECT_EQ(timing.makespan, 2.0 * (chunks * shape.micro_batches + stages - 1)) << text(shape);
    }
  }
}

// One micro-batch passes every stage twice and every link twice.
TEST(Simulate, messages_take_time_and_lists_wait_for_them) {
  const ScheduleShape shape{ScheduleKind::k1F1B, 3, 1, 1};
  const PipelineCosts costs{{1.0, 2.0, 4.0}, {2.0, 4.0, 8.0}, 0.5};
  const auto timing = simulate(shape, make_schedules(shape), costs);
  EXPECT_EQ(timing.makespan, 7.0 + 14.0 + 4 * 0.5);
  EXPECT_EQ(timing.busy, (std::vector<double>{3.0, 6.0, 12.0}));
}

// Sends are posted before the stage waits for its next receive: a message's time shows once on the
// way there and once on the way back, not once a micro-batch.
TEST(Simulate, gpipe_hides_all_transfers_but_the_first_of_each_link) {
  for (const int stages : {2, 3, 5, 8}) {
    for (const int micro_batches : {1, 4, 9}) {
      const ScheduleShape shape{ScheduleKind::kGPipe, stages, 1, micro_batches};
      auto costs = equal_costs(shape, 4.0, 8.0);
      costs.transfer = 3.0;
      const auto timing = simulate(shape, make_schedules(shape), costs);
      EXPECT_EQ(timing.makespan, (micro_batches + stages - 1) * 12.0 + 2 * (stages - 1) * 3.0)
          << text(shape);
    }
  }
}

// All wait for a slow stage: it is idle only until its first forward and after its last backward.
TEST(Simulate, the_slowest_stage_sets_the_pace) {
  const ScheduleShape shape{ScheduleKind::k1F1B, 3, 1, 10};
  const PipelineCosts costs{{1.0, 4.0, 1.0}, {2.0, 8.0, 2.0}, 0.0};
  const auto timing = simulate(shape, make_schedules(shape), costs);
  EXPECT_EQ(timing.busy[1], 120.0);
  EXPECT_GE(timing.makespan, 120.0 + 1.0 + 2.0);
  // The first micro-batch's way through the stages and back without the slow one adds at most this
  // much again: the slow stage waits for the last stage's F and B, once.
  EXPECT_LE(timing.makespan, 120.0 + 1.0 + 2.0 + 1.0 + 2.0);
}

TEST(Simulate, lists_that_never_end_are_a_bug) {
  const ScheduleShape shape{ScheduleKind::k1F1B, 2, 1, 2};
  auto lists = make_schedules(shape);
  std::erase(lists[0], Action{ActionKind::kSendActivation, 0, 1});
  EXPECT_THROW(simulate(shape, lists, equal_costs(shape, 1.0, 1.0)), Error);
  EXPECT_THROW(simulate(shape, make_schedules(shape), {{1.0}, {1.0}, 0.0}), Error);
}

}  // namespace
}  // namespace pg::model
