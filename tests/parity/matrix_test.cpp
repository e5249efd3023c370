// The dense axes together: the same deck and seed on any legal grid, ZeRO stage, schedule and
// recomputation give the losses and gradients of one rank. Bounds as in parity_test.cpp; 10 steps.
#include "matrix.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "case_runner.h"

namespace pg::testing {
namespace {

CaseRunner& runner() {
  static CaseRunner made("matrix");
  return made;
}

TEST(Matrix, one_rank_learns) {
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    MatrixCase c;
    c.style = style;
    const auto& trace = runner().reference(c);
    EXPECT_LT(trace.losses.back(), trace.losses.front() - 0.2) << style_name(style);
  }
}

TEST(Matrix, fp64_is_the_same_on_every_covering_case) {
  const auto all = all_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) {
    std::printf("    %zu legal cases; %zu have every combination of three factors\n", all.size(),
                cases.size());
  }
  runner().expect_parity(cases);
}

std::vector<MatrixCase> low_precision_cases() {
  using model::Recompute;
  using model::ScheduleKind;
  const auto k1F1B = ScheduleKind::k1F1B;
  const model::RecomputePlan full{Recompute::kFull, 0}, some{Recompute::kFull, 2},
      selective{Recompute::kSelective, 0};
  return {
      {Style::kLlama, 1, 4, 2, 0, k1F1B, 1, {}, true},
      {Style::kLlama, 2, 2, 2, 3, ScheduleKind::kInterleaved, 2, full, true},
      {Style::kGpt2, 1, 2, 4, 1, k1F1B, 1, selective, false},
      {Style::kGpt2, 2, 3, 1, 2, ScheduleKind::kGPipe, 1, {}, true},
      {Style::kGpt2, 4, 1, 2, 3, k1F1B, 1, some, false},
  };
}

// Every schedule at every depth, with few and many micro-batches in flight. Run a second time with
// MPI's eager messages off, so that every send waits for its receive: nothing may deadlock.
TEST(MatrixPipeline, every_schedule_at_every_depth) {
  std::vector<MatrixCase> cases;
  for (const auto& c : all_cases(comm::Communicator::world().size())) {
    const bool plain = c.dp == 1 && c.zero == 0, shared = c.dp == 2 && c.zero == 3;
    if (c.pp > 1 && c.tp == 1 && (plain || shared) && c.recompute.mode == model::Recompute::kNone) {
      cases.push_back(c);
    }
  }
  EXPECT_GE(cases.size(), 30U);
  runner().expect_parity(cases);
}

// Sizes at which something is as small as it can be, and what the styles above do not combine.
TEST(Matrix, fp64_is_the_same_at_the_edges) {
  using model::ScheduleKind;
  const auto k1F1B = ScheduleKind::k1F1B;
  const auto micro_batches = [](std::int64_t m) {
    return [m](app::Deck& d) { d.train.global_batch = m * d.train.micro_batch; };
  };
  const auto few_kv_heads = [](app::Deck& d) { d.model.kv_heads = 2; };
  const std::vector<Edge> edges{
      {"one micro-batch in four stages",
       {Style::kLlama, 1, 1, 4, 0, k1F1B, 1, {}, false},
       micro_batches(1)},
      {"two micro-batches in four stages",
       {Style::kGpt2, 1, 1, 4, 2, k1F1B, 1, {}, false},
       micro_batches(2)},
      {"two micro-batches in four stages, gpipe",
       {Style::kLlama, 2, 1, 4, 3, ScheduleKind::kGPipe, 1, {}, false},
       micro_batches(4)},
      {"a layer for each of three chunks in two stages",
       {Style::kGpt2, 2, 2, 2, 3, ScheduleKind::kInterleaved, 3, {}, true},
       [](app::Deck& d) { d.model.layers = 6; }},
      {"one row of the stream a rank",
       {Style::kLlama, 1, 4, 1, 0, k1F1B, 1, {}, true},
       [](app::Deck& d) { d.train.seq = 4; }},
      {"KV heads held three times, with biases, dropout and tied tables",
       {Style::kGpt2, 1, 6, 1, 2, k1F1B, 1, {}, true},
       few_kv_heads},
      {"the same in two replicas, without sequence parallelism",
       {Style::kGpt2, 4, 2, 1, 0, k1F1B, 1, {}, false},
       [](app::Deck& d) { d.model.kv_heads = 1; }},
      {"tensors of fewer elements than replicas",
       {Style::kGpt2, 4, 2, 1, 3, k1F1B, 1, {}, true},
       [](app::Deck& d) {
         d.model.hidden = 3;
         d.model.head_dim = 1;
         d.model.ffn = 6;
       }},
  };
  expect_parity_at(edges, runner());
}

// fp32: bounds of parity_test.cpp, whose sums are as long (12 sequences of 12 tokens here, 24
// there); tensor parallelism adds sums over at most 8 ranks in each layer, which is less than the
// sums over channels that are there anyway.
TEST(Matrix, fp32_is_the_same_within_rounding) {
  runner().expect_parity_in_fp32(low_precision_cases());
}

TEST(Matrix, bf16_on_a_grid_is_as_close_to_fp64_as_on_one_rank) {
  runner().expect_as_close_in_bf16(low_precision_cases());
}

// Every sum that a grid adds, dropped once: the comparison must not pass.
std::vector<Control> controls() {
  using model::ScheduleKind;
  const auto k1F1B = ScheduleKind::k1F1B;
  return {
      {"a norm's sum over tp under sequence parallelism",
       {Style::kLlama, 1, 2, 1, 0, k1F1B, 1, {}, true},
       {.drop_stream_sum = true}},
      {"one bucket of ZeRO 1",
       {Style::kLlama, 2, 1, 1, 1, k1F1B, 1, {}, false},
       {.drop_one_bucket = true}},
      {"one bucket of ZeRO 2",
       {Style::kLlama, 2, 1, 2, 2, k1F1B, 1, {}, false},
       {.drop_one_bucket = true}},
      {"one bucket of ZeRO 3",
       {Style::kGpt2, 3, 1, 1, 3, k1F1B, 1, {}, false},
       {.drop_one_bucket = true}},
      {"a tied embedding's sum",
       {Style::kGpt2, 1, 1, 2, 0, k1F1B, 1, {}, false},
       {.drop_tied_sum = true}},
      {"a tied embedding's sum under ZeRO 3",
       {Style::kGpt2, 2, 1, 3, 3, ScheduleKind::kGPipe, 1, {}, false},
       {.drop_tied_sum = true}},
      {"a replicated KV head's sum",
       {Style::kLlama, 1, 4, 1, 0, k1F1B, 1, {}, false},
       {.drop_kv_copy = true}},
      {"the weights of other replicas under ZeRO 1",
       {Style::kLlama, 2, 1, 1, 1, k1F1B, 1, {}, false},
       {.drop_publish = true}},
      {"the new weights in ZeRO 3's slots",
       {Style::kLlama, 2, 1, 1, 3, k1F1B, 1, {}, false},
       {.keep_stale_slots = true}},
      {"a replicated KV head's sum under ZeRO 2",
       {Style::kLlama, 2, 4, 1, 2, k1F1B, 1, {}, true},
       {.drop_kv_copy = true}},
  };
}

TEST(MatrixControl, a_dropped_sum_is_found) {
  expect_found(controls(), runner());
}

// fp64 products pack nothing; fp32 ones do.
TEST(MatrixControl, a_stale_packed_copy_is_found) {
  const MatrixCase on{Style::kLlama, 2, 1, 1, 3, model::ScheduleKind::k1F1B, 1, {}, false};
  const auto broken =
      compare(runner().deck(on, DType::kF32), on.ranks(), runner().reference(on, DType::kF32),
              kFp32, {.keep_stale_packs = true});
  EXPECT_GT(broken.worst_gradient, 10 * kFp32.gradient);
}

}  // namespace
}  // namespace pg::testing
