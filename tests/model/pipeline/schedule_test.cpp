#include "model/pipeline/schedule.h"

#include <gtest/gtest.h>

#include "comm/error.h"
#include "model/pipeline/verify_schedule.h"
#include "tests/model/pipeline/shapes.h"

namespace pg::model {
namespace {

TEST(Schedule, one_stage_has_no_messages) {
  EXPECT_EQ(text(make_schedule({ScheduleKind::kGPipe, 1, 1, 3}, 0)), "F0 F1 F2 B0 B1 B2");
  EXPECT_EQ(text(make_schedule({ScheduleKind::k1F1B, 1, 1, 3}, 0)), "F0 B0 F1 B1 F2 B2");
  EXPECT_EQ(text(make_forward_schedule({ScheduleKind::k1F1B, 1, 1, 3}, 0)), "F0 F1 F2");
}

// Written by hand from figure 4 of Narayanan et al. 2021 (PipeDream-flush), two stages.
TEST(Schedule, one_f_one_b_on_two_stages_is_the_published_one) {
  const ScheduleShape shape{ScheduleKind::k1F1B, 2, 1, 3};
  EXPECT_EQ(text(make_schedule(shape, 0)), "F0 a0> F1 a1> g0< B0 F2 a2> g1< B1 g2< B2");
  EXPECT_EQ(text(make_schedule(shape, 1)), "a0< F0 B0 a1< g0> F1 B1 a2< g1> F2 B2 g2>");
}

TEST(Schedule, gpipe_runs_all_forwards_first) {
  const ScheduleShape shape{ScheduleKind::kGPipe, 2, 1, 2};
  EXPECT_EQ(text(make_schedule(shape, 0)), "F0 a0> F1 a1> g0< B0 g1< B1");
  EXPECT_EQ(text(make_schedule(shape, 1)), "a0< F0 a1< F1 B0 g0> B1 g1>");
}

// The computes of Megatron-LM's order for four stages of two chunks and eight micro-batches (figure
// 4, bottom, of Narayanan et al. 2021): the first and the last device.
TEST(Schedule, interleaved_is_the_published_order) {
  const ScheduleShape shape{ScheduleKind::kInterleaved, 4, 2, 8};
  const auto computes = [&](int stage) {
    auto list = make_schedule(shape, stage);
    std::erase_if(list, [](const Action& action) {
      return action.kind != ActionKind::kForward && action.kind != ActionKind::kBackward;
    });
    return text(list, /*chunks=*/true);
  };
  EXPECT_EQ(computes(0),
            "F0.0 F1.0 F2.0 F3.0 F0.1 F1.1 F2.1 F3.1 F4.0 F5.0 F6.0 B0.1 F7.0 B1.1 F4.1 B2.1 "
            "F5.1 B3.1 F6.1 B0.0 F7.1 B1.0 B2.0 B3.0 B4.1 B5.1 B6.1 B7.1 B4.0 B5.0 B6.0 B7.0");
  EXPECT_EQ(computes(3),
            "F0.0 F1.0 F2.0 F3.0 F0.1 B0.1 F1.1 B1.1 F2.1 B2.1 F3.1 B3.1 F4.0 B0.0 F5.0 B1.0 "
            "F6.0 B2.0 F7.0 B3.0 F4.1 B4.1 F5.1 B5.1 F6.1 B6.1 F7.1 B7.1 B4.0 B5.0 B6.0 B7.0");
}

TEST(Schedule, only_messages_stand_between_a_receive_and_its_use) {
  for (const auto& shape : legal_shapes()) {
    for (const auto& list : make_schedules(shape)) {
      for (std::size_t i = 0; i < list.size(); ++i) {
        const bool activation = list[i].kind == ActionKind::kRecvActivation;
        if (!activation && list[i].kind != ActionKind::kRecvGradient) continue;
        auto use = i;
        while (use < list.size() && message_of(list[use], 0, 2)) ++use;
        const Action wanted{activation ? ActionKind::kForward : ActionKind::kBackward,
                            list[i].chunk, list[i].micro};
        ASSERT_LT(use, list.size()) << text(shape);
        ASSERT_EQ(list[use], wanted) << text(shape) << ": " << text(list, true);
      }
    }
  }
}

TEST(Schedule, both_ends_name_the_same_message) {
  // Two stages of two chunks: virtual stages 0, 2 on stage 0 and 1, 3 on stage 1.
  const Message around{1, 0, false, 1, 5};
  EXPECT_EQ(message_of({ActionKind::kSendActivation, 0, 5}, 1, 2), around);
  EXPECT_EQ(message_of({ActionKind::kRecvActivation, 1, 5}, 0, 2), around);
  const Message back{0, 1, true, 2, 5};
  EXPECT_EQ(message_of({ActionKind::kSendGradient, 1, 5}, 0, 2), back);
  EXPECT_EQ(message_of({ActionKind::kRecvGradient, 0, 5}, 1, 2), back);
  EXPECT_FALSE(message_of({ActionKind::kForward, 0, 5}, 0, 2));
}

TEST(Schedule, illegal_shapes_are_explained_with_the_legal_values) {
  const auto problem = [](ScheduleKind kind, int stages, int chunks, int micro_batches) {
    return schedule_problem({kind, stages, chunks, micro_batches});
  };
  const auto interleaved = ScheduleKind::kInterleaved;
  EXPECT_EQ(problem(interleaved, 4, 2, 8), "");
  EXPECT_EQ(problem(ScheduleKind::k1F1B, 4, 1, 7), "");
  EXPECT_NE(problem(interleaved, 4, 2, 6).find("multiple of the 4 stages, such as 4 or 8"),
            std::string::npos);
  EXPECT_NE(problem(interleaved, 4, 2, 3).find("such as 4; 3 are not"), std::string::npos);
  EXPECT_NE(problem(interleaved, 1, 2, 6).find("at least 2 stages"), std::string::npos);
  EXPECT_NE(problem(interleaved, 4, 1, 8).find("chunks of at least 2"), std::string::npos);
  EXPECT_NE(problem(ScheduleKind::kGPipe, 4, 2, 8).find("chunks = 1, not 2"), std::string::npos);
  EXPECT_NE(problem(ScheduleKind::k1F1B, 4, 1, 0).find("at least 1"), std::string::npos);
  EXPECT_THROW(make_schedule({interleaved, 4, 2, 6}, 0), Error);
  EXPECT_THROW(make_schedule({ScheduleKind::k1F1B, 4, 1, 6}, 4), Error);
  EXPECT_THROW(make_forward_schedule({interleaved, 1, 2, 6}, 0), Error);
}

}  // namespace
}  // namespace pg::model
