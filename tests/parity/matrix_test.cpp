// The dense axes together: the same deck and seed on any legal grid, ZeRO stage, schedule and
// recomputation give the losses and gradients of one rank. Bounds as in parity_test.cpp; 10 steps.
#include "matrix.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace pg::testing {
namespace {

constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9, 1e-9};
constexpr std::int64_t kSteps = 10;

std::filesystem::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "matrix", 9001, 61, 3);
  return path;
}

bool root() {
  return comm::Communicator::world().rank() == 0;
}

const Trace& reference(Style style, DType type) {
  static std::map<std::pair<Style, DType>, Trace> made;
  const auto key = std::make_pair(style, type);
  if (!made.count(key)) made[key] = one_rank(matrix_deck(style, tokens(), type), kSteps);
  return made[key];
}

void run_cases(const std::vector<MatrixCase>& cases) {
  const auto begin = std::chrono::steady_clock::now();
  double worst_gradient = 0, worst_loss = 0, worst_norm = 0;
  for (const auto& c : cases) {
    const auto result =
        compare(c.deck(tokens(), DType::kF64), c.ranks(), reference(c.style, DType::kF64), kFp64);
    EXPECT_LE(result.worst_gradient, kFp64.gradient) << c.name() << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, kFp64.loss) << c.name() << " at step " << result.worst_step;
    EXPECT_LE(result.worst_norm, kFp64.norm) << c.name();
    worst_gradient = std::max(worst_gradient, result.worst_gradient);
    worst_loss = std::max(worst_loss, result.worst_loss);
    worst_norm = std::max(worst_norm, result.worst_norm);
    if (root() && std::getenv("PG_MATRIX_VERBOSE") != nullptr) {
      std::printf("    %-48s gradient %.1e, loss %.1e\n", c.name().c_str(), result.worst_gradient,
                  result.worst_loss);
      std::fflush(stdout);
    }
  }
  if (root()) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf(
        "    %zu cases in %.1f s: worst gradient %.1e of %.0e, worst loss %.1e and "
        "norm %.1e of %.0e\n",
        cases.size(), seconds.count(), worst_gradient, kFp64.gradient, worst_loss, worst_norm,
        kFp64.loss);
  }
}

TEST(Matrix, one_rank_learns) {
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    const auto& trace = reference(style, DType::kF64);
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
  run_cases(cases);
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
    const bool deep = c.pp > 1 && (c.tp == 1 || c.pp * c.tp == c.ranks());
    if (deep && c.recompute.mode == model::Recompute::kNone && c.zero % 3 == 0 &&
        c.dp * c.tp <= 2) {
      cases.push_back(c);
    }
  }
  EXPECT_GE(cases.size(), 40U);
  run_cases(cases);
}

// fp32: bounds of parity_test.cpp, whose sums are as long (12 sequences of 12 tokens here, 24
// there); tensor parallelism adds sums over at most 8 ranks in each layer, which is less than the
// sums over channels that are there anyway.
TEST(Matrix, fp32_is_the_same_within_rounding) {
  constexpr ParityBounds kFp32{1e-5, 1e-3, 2e-4};
  double worst_gradient = 0, worst_loss = 0, worst_norm = 0;
  for (const auto& c : low_precision_cases()) {
    const auto result =
        compare(c.deck(tokens(), DType::kF32), c.ranks(), reference(c.style, DType::kF32), kFp32);
    EXPECT_LE(result.worst_gradient, kFp32.gradient) << c.name() << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, kFp32.loss) << c.name();
    worst_gradient = std::max(worst_gradient, result.worst_gradient);
    worst_loss = std::max(worst_loss, result.worst_loss);
    worst_norm = std::max(worst_norm, result.worst_norm);
  }
  if (root()) {
    std::printf("    worst gradient %.1e of %.0e, worst loss %.1e of %.0e, norm %.1e\n",
                worst_gradient, kFp32.gradient, worst_loss, kFp32.loss, worst_norm);
  }
}

// bf16's own rounding is far above any reassociation; so errors are compared: the grid's distance
// from fp64 is at most 1.5 times one rank's.
TEST(Matrix, bf16_on_a_grid_is_as_close_to_fp64_as_on_one_rank) {
  for (const auto& c : low_precision_cases()) {
    const auto& exact = reference(c.style, DType::kF64);
    const auto one = error_of(reference(c.style, DType::kBF16), exact);
    const auto grid = error_on_grid(c.deck(tokens(), DType::kBF16), c.ranks(), exact);
    EXPECT_LT(one.gradient, 0.05);
    EXPECT_LE(grid.loss, 1.5 * one.loss) << c.name();
    EXPECT_LE(grid.gradient, 1.5 * one.gradient) << c.name();
    if (root()) {
      std::printf("    %-44s error of losses %.1e, one rank %.1e; of gradients %.1e, %.1e\n",
                  c.name().c_str(), grid.loss, one.loss, grid.gradient, one.gradient);
    }
  }
}

// Every sum that a grid adds, dropped once: the comparison must not pass.
struct Control {
  const char* name;
  MatrixCase on;
  model::Sabotage sabotage;
};

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
      {"a replicated KV head's sum under ZeRO 2",
       {Style::kLlama, 2, 4, 1, 2, k1F1B, 1, {}, true},
       {.drop_kv_copy = true}},
  };
}

TEST(MatrixControl, a_dropped_sum_is_found) {
  for (const auto& control : controls()) {
    const auto deck = control.on.deck(tokens(), DType::kF64);
    const auto& whole = reference(control.on.style, DType::kF64);
    const auto sound = compare(deck, control.on.ranks(), whole, kFp64);
    EXPECT_TRUE(sound.within(kFp64)) << control.on.name();
    const auto broken = compare(deck, control.on.ranks(), whole, kFp64, control.sabotage);
    EXPECT_GT(broken.worst_gradient, 1e3 * kFp64.gradient) << control.name;
    EXPECT_GT(broken.worst_loss, 1e3 * kFp64.loss) << control.name;
    if (root()) {
      std::printf("    without %-48s gradient off by %.1e, loss by %.1e\n", control.name,
                  broken.worst_gradient, broken.worst_loss);
    }
  }
}

}  // namespace
}  // namespace pg::testing
