// The dense axes together: the same deck and seed on any legal grid, ZeRO stage, schedule and
// recomputation give the losses and gradients of one rank. Bounds as in parity_test.cpp; 10 steps.
#include "matrix.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>

namespace pg::testing {
namespace {

constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9, 1e-9};
constexpr ParityBounds kFp32{1e-5, 1e-3, 2e-4};
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
    const bool plain = c.dp == 1 && c.zero == 0, shared = c.dp == 2 && c.zero == 3;
    if (c.pp > 1 && c.tp == 1 && (plain || shared) && c.recompute.mode == model::Recompute::kNone) {
      cases.push_back(c);
    }
  }
  EXPECT_GE(cases.size(), 30U);
  run_cases(cases);
}

// Sizes at which something is as small as it can be, and what the styles above do not combine.
TEST(Matrix, fp64_is_the_same_at_the_edges) {
  using model::ScheduleKind;
  struct Edge {
    const char* name;
    MatrixCase on;
    std::function<void(app::Deck&)> change;
  };
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
  for (const auto& edge : edges) {
    auto deck = edge.on.deck(tokens(), DType::kF64);
    edge.change(deck);
    const auto result = compare(deck, edge.on.ranks(), one_rank(deck, kSteps), kFp64);
    EXPECT_TRUE(result.within(kFp64))
        << edge.name << ": gradient " << result.worst_gradient << " of " << result.worst_parameter
        << ", loss " << result.worst_loss << ", norm " << result.worst_norm;
  }
}

// fp32: bounds of parity_test.cpp, whose sums are as long (12 sequences of 12 tokens here, 24
// there); tensor parallelism adds sums over at most 8 ranks in each layer, which is less than the
// sums over channels that are there anyway.
TEST(Matrix, fp32_is_the_same_within_rounding) {
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
// from fp64 is at most 1.5 times one rank's. The errors of one run's losses go together, as its
// weights drift, so a run is hardly more than one sample of the losses' error: root mean squares
// over kSeeds runs, whose quotient spreads by about 1 / sqrt(kSeeds) = 0.3 at the most. (A gradient
// has thousands of elements.)
TEST(Matrix, bf16_on_a_grid_is_as_close_to_fp64_as_on_one_rank) {
  constexpr int kSeeds = 12;
  constexpr std::int64_t kFewSteps = 4;
  const auto cases = low_precision_cases();
  std::vector<RunError> one(cases.size()), grid(cases.size());
  const auto add = [](RunError& sum, const RunError& e) {
    sum.loss += e.loss * e.loss / kSeeds;
    sum.gradient += e.gradient * e.gradient / kSeeds;
  };
  for (int seed = 1; seed <= kSeeds; ++seed) {
    std::map<Style, Trace> exact, single;
    for (const auto style : {Style::kLlama, Style::kGpt2}) {
      for (const auto type : {DType::kF64, DType::kBF16}) {
        auto deck = matrix_deck(style, tokens(), type);
        deck.run.seed = seed;
        (type == DType::kF64 ? exact : single)[style] = one_rank(deck, kFewSteps);
      }
    }
    for (std::size_t i = 0; i < cases.size(); ++i) {
      auto deck = cases[i].deck(tokens(), DType::kBF16);
      deck.run.seed = seed;
      add(one[i], error_of(single[cases[i].style], exact[cases[i].style]));
      add(grid[i], error_on_grid(deck, cases[i].ranks(), exact[cases[i].style]));
    }
  }
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const double loss = std::sqrt(grid[i].loss / one[i].loss);
    const double gradient = std::sqrt(grid[i].gradient / one[i].gradient);
    EXPECT_LT(one[i].gradient, 0.05 * 0.05);
    EXPECT_LE(loss, 1.5) << cases[i].name();
    EXPECT_LE(gradient, 1.5) << cases[i].name();
    if (root()) {
      std::printf("    %-44s error over one rank's: losses %.2f, gradients %.2f of 1.5\n",
                  cases[i].name().c_str(), loss, gradient);
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
  for (const auto& control : controls()) {
    const auto deck = control.on.deck(tokens(), DType::kF64);
    const auto& whole = reference(control.on.style, DType::kF64);
    const auto sound = compare(deck, control.on.ranks(), whole, kFp64);
    EXPECT_TRUE(sound.within(kFp64)) << control.on.name();
    const auto broken = compare(deck, control.on.ranks(), whole, kFp64, control.sabotage);
    // Weights go wrong after the first step, of which the gradients are.
    const bool weights = control.sabotage.drop_publish || control.sabotage.keep_stale_slots;
    if (!weights) {
      EXPECT_GT(broken.worst_gradient, 1e3 * kFp64.gradient) << control.name;
    }
    EXPECT_GT(broken.worst_loss, 1e3 * kFp64.loss) << control.name;
    if (root()) {
      std::printf("    without %-48s gradient off by %.1e, loss by %.1e\n", control.name,
                  broken.worst_gradient, broken.worst_loss);
    }
  }
}

// fp64 products pack nothing; fp32 ones do.
TEST(MatrixControl, a_stale_packed_copy_is_found) {
  const MatrixCase on{Style::kLlama, 2, 1, 1, 3, model::ScheduleKind::k1F1B, 1, {}, false};
  const auto broken =
      compare(on.deck(tokens(), DType::kF32), on.ranks(), reference(Style::kLlama, DType::kF32),
              kFp32, {.keep_stale_packs = true});
  EXPECT_GT(broken.worst_gradient, 10 * kFp32.gradient);
}

}  // namespace
}  // namespace pg::testing
