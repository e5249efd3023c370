#include "model/pipeline/verify_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/model/pipeline/shapes.h"

namespace pg::model {
namespace {

using Lists = std::vector<std::vector<Action>>;

const ScheduleShape kSmall{ScheduleKind::k1F1B, 3, 1, 5};
const ScheduleShape kWrapped{ScheduleKind::kInterleaved, 2, 2, 4};

std::size_t place(const std::vector<Action>& list, const Action& action) {
  const auto found = std::find(list.begin(), list.end(), action);
  EXPECT_NE(found, list.end()) << text(action);
  return static_cast<std::size_t>(found - list.begin());
}

void expect_error(const ScheduleShape& shape, const Lists& lists, const char* part) {
  const auto report = verify_schedule(shape, lists);
  EXPECT_NE(report.error.find(part), std::string::npos) << "found: " << report.error;
}

TEST(VerifySchedule, every_legal_shape_is_sound_and_within_the_published_bound) {
  const auto shapes = legal_shapes();
  EXPECT_GE(shapes.size(), 300u);
  for (const auto& shape : shapes) {
    const auto lists = make_schedules(shape);
    const auto report = verify_schedule(shape, lists);
    ASSERT_EQ(report.error, "") << text(shape);
    for (int stage = 0; stage < shape.stages; ++stage) {
      const auto s = static_cast<std::size_t>(stage);
      // Reached, too: a smaller count would mean that live micro-batches are not counted.
      EXPECT_EQ(report.stage_peaks[s], peak_live_bound(shape, stage))
          << text(shape) << " stage " << stage;
      EXPECT_EQ(live_slots(lists[s], shape.chunks), report.chunk_peaks[s]);
    }
    EXPECT_EQ(make_schedule(shape, shape.stages - 1), lists.back());
  }
}

// The order of messages between two stages must survive, or NCCL would swap them.
TEST(VerifySchedule, every_send_may_be_posted_as_soon_as_its_tensor_is_made) {
  for (const auto& shape : legal_shapes()) {
    const auto lists = make_schedules(shape);
    const auto report =
        verify_schedule(shape, with_early_sends(lists), Pass::kTraining, Sends::kPosted);
    ASSERT_EQ(report.error, "") << text(shape);
    EXPECT_EQ(report.stage_peaks, verify_schedule(shape, lists).stage_peaks) << text(shape);
  }
}

TEST(VerifySchedule, early_sends_that_block_are_a_deadlock) {
  const auto lists = with_early_sends(make_schedules(kSmall));
  expect_error(kSmall, lists, "deadlock: ");
  EXPECT_EQ(verify_schedule(kSmall, lists, Pass::kTraining, Sends::kPosted).error, "");
}

// The last activation is sent after the backward that needs the gradient it leads to.
TEST(VerifySchedule, a_send_behind_what_depends_on_it_is_a_deadlock) {
  auto lists = make_schedules(kSmall);
  const Action send{ActionKind::kSendActivation, 0, 4};
  std::erase(lists[0], send);
  lists[0].push_back(send);
  for (const auto sends : {Sends::kBlocking, Sends::kPosted}) {
    const auto report = verify_schedule(kSmall, lists, Pass::kTraining, sends);
    EXPECT_NE(report.error.find("deadlock: stage 0 waits at receiving of the gradient"),
              std::string::npos)
        << report.error;
  }
}

TEST(VerifySchedule, every_forward_schedule_is_sound_and_holds_two_micro_batches_at_most) {
  for (int stages = 1; stages <= 6; ++stages) {
    for (int chunks = 1; chunks <= (stages == 1 ? 1 : 3); ++chunks) {
      for (int micro_batches = 1; micro_batches <= 13; ++micro_batches) {
        const ScheduleShape shape{ScheduleKind::kInterleaved, stages, chunks, micro_batches};
        const auto lists = make_forward_schedules(shape);
        const auto report = verify_schedule(shape, lists, Pass::kForwardOnly);
        ASSERT_EQ(report.error, "") << text(shape);
        const auto early =
            verify_schedule(shape, with_early_sends(lists), Pass::kForwardOnly, Sends::kPosted);
        ASSERT_EQ(early.error, "") << text(shape);
        for (int stage = 0; stage < stages; ++stage) {
          // One when a stage sends before it receives. In the ring that several chunks make one
          // stage of a slot receives first, and holds the next micro-batch beside the last one.
          EXPECT_LE(report.stage_peaks[static_cast<std::size_t>(stage)], chunks == 1 ? 1 : 2)
              << text(shape) << " stage " << stage;
          EXPECT_EQ(early.stage_peaks[static_cast<std::size_t>(stage)], 1) << text(shape);
          EXPECT_EQ(make_forward_schedule(shape, stage), lists[static_cast<std::size_t>(stage)]);
        }
      }
    }
  }
}

TEST(VerifySchedule, live_micro_batches_are_counted_per_chunk) {
  // Two stages, two chunks: stage 1 warms up with (v-1) p = 2 forwards of chunk 0.
  const auto list = make_schedule({ScheduleKind::kInterleaved, 2, 2, 2}, 1);
  ASSERT_EQ(text(list, true),
            "a0.0< F0.0 a0.0> a1.0< F1.0 a1.0> a0.1< F0.1 B0.1 a1.1< g0.1> F1.1 B1.1 g0.0< g1.1> "
            "B0.0 g1.0< g0.0> B1.0 g1.0>");
  EXPECT_EQ(live_slots(list, 2), (std::vector<int>{2, 1}));
}

// Negative controls: what each check is there to find.

TEST(VerifySchedule, each_dropped_or_doubled_action_is_found) {
  for (const auto& shape : {kSmall, kWrapped}) {
    const auto lists = make_schedules(shape);
    for (std::size_t s = 0; s < lists.size(); ++s) {
      for (std::size_t i = 0; i < lists[s].size(); ++i) {
        auto broken = lists;
        broken[s].erase(broken[s].begin() + static_cast<std::ptrdiff_t>(i));
        expect_error(shape, broken, "is missing");
        broken = lists;
        broken[s].push_back(lists[s][i]);
        expect_error(shape, broken, "comes twice");
      }
    }
  }
}

TEST(VerifySchedule, an_action_of_no_virtual_stage_is_found) {
  auto lists = make_schedules(kSmall);
  for (const Action alien :
       {Action{ActionKind::kRecvActivation, 0, 1}, Action{ActionKind::kSendGradient, 0, 1},
        Action{ActionKind::kForward, 1, 1}, Action{ActionKind::kForward, 0, 5},
        Action{ActionKind::kBackward, 0, -1}}) {
    auto broken = lists;
    broken[0].push_back(alien);
    expect_error(kSmall, broken, "belongs here");
  }
  EXPECT_NE(verify_schedule(kSmall, lists, Pass::kForwardOnly).error, "");
}

TEST(VerifySchedule, each_action_before_what_it_needs_is_found) {
  for (const auto& shape : {kSmall, kWrapped}) {
    const auto lists = make_schedules(shape);
    int pairs = 0;
    for (std::size_t s = 0; s < lists.size(); ++s) {
      for (std::size_t i = 0; i < lists[s].size(); ++i) {
        for (std::size_t j = i + 1; j < lists[s].size(); ++j) {
          const auto& a = lists[s][i];
          const auto& b = lists[s][j];
          if (a.chunk != b.chunk || a.micro != b.micro) continue;
          // The one pair of a micro-batch's actions at a chunk whose order is free.
          if (a.kind == ActionKind::kSendActivation && b.kind != ActionKind::kSendGradient)
            continue;
          auto broken = lists;
          std::swap(broken[s][i], broken[s][j]);
          expect_error(shape, broken, "comes before");
          ++pairs;
        }
      }
    }
    EXPECT_GT(pairs, 0);
  }
}

TEST(VerifySchedule, swapped_sends_are_found) {
  auto lists = make_schedules({ScheduleKind::kGPipe, 2, 1, 3});
  // The second activation is sent before the first: legal at the sender, wrong for its peer.
  auto& list = lists[0];
  const Action first{ActionKind::kSendActivation, 0, 0};
  const Action second{ActionKind::kSendActivation, 0, 1};
  std::swap(list[place(list, first)], list[place(list, second)]);
  expect_error({ScheduleKind::kGPipe, 2, 1, 3}, lists, "comes before");
  std::swap(list[place(list, first)], list[place(list, second)]);
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(place(list, first)));
  list.insert(list.begin() + static_cast<std::ptrdiff_t>(place(list, second)) + 1, first);
  expect_error({ScheduleKind::kGPipe, 2, 1, 3}, lists,
               "from stage 0 to stage 1: message 0 is sent as the activation of virtual stage 0, "
               "micro-batch 1 and received as the activation of virtual stage 0, micro-batch 0");
}

// Steady 1F1B exchanges an activation for a gradient. When both stages send first, both block.
TEST(VerifySchedule, a_flipped_exchange_of_one_f_one_b_is_a_deadlock) {
  auto lists = make_schedules(kSmall);
  auto& list = lists[2];
  const auto receive = place(list, {ActionKind::kRecvActivation, 0, 1});
  ASSERT_EQ(list[receive + 1], (Action{ActionKind::kSendGradient, 0, 0}));
  std::swap(list[receive], list[receive + 1]);
  expect_error(kSmall, lists, "deadlock: ");
  expect_error(kSmall, lists,
               "stage 1 waits at sending of the activation of chunk 0, micro-batch 1");
  expect_error(kSmall, lists, "stage 2 waits at sending of the gradient of chunk 0, micro-batch 0");
}

// Correct in every other way, but one micro-batch more is held than the bound allows.
TEST(VerifySchedule, a_receive_too_early_breaks_the_bound) {
  auto lists = make_schedules(kSmall);
  auto& list = lists[1];
  const Action receive{ActionKind::kRecvActivation, 0, 2};
  const auto backward = place(list, {ActionKind::kBackward, 0, 0});
  ASSERT_GT(place(list, receive), backward);
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(place(list, receive)));
  list.insert(list.begin() + static_cast<std::ptrdiff_t>(backward), receive);
  const auto report = verify_schedule(kSmall, lists);
  EXPECT_EQ(report.error, "");
  EXPECT_EQ(report.stage_peaks[1], peak_live_bound(kSmall, 1) + 1);
  EXPECT_EQ(live_slots(list, 1)[0], report.stage_peaks[1]);
}

TEST(VerifySchedule, backwards_out_of_order_are_found) {
  const ScheduleShape shape{ScheduleKind::kGPipe, 3, 1, 4};
  auto lists = make_schedules(shape);
  // All stages agree on the reverse order, as in some other trainers: sums in another order.
  for (auto& list : lists) {
    for (auto& action : list) {
      const bool back = action.kind == ActionKind::kBackward ||
                        action.kind == ActionKind::kSendGradient ||
                        action.kind == ActionKind::kRecvGradient;
      if (back) action.micro = shape.micro_batches - 1 - action.micro;
    }
  }
  expect_error(shape, lists, "comes before that of micro-batch");
}

}  // namespace
}  // namespace pg::model
