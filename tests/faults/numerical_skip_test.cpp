// A number that is not finite on one rank: the same step gets no update on all of them, on every
// kind of grid, and nothing of it reaches a later step.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "app/parallel_plan.h"
#include "app/replica_check.h"
#include "tests/parity/axes.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::ScheduleKind;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kBad = 3, kSteps = 6;

comm::Communicator world() {
  return comm::Communicator::world();
}

std::filesystem::path tokens() {
  static const auto path = make_tokens(world(), "numerical_skip", 2401, 61, 3);
  return path;
}

MatrixCase dense(int dp, int tp, int pp, int zero, Style style = Style::kLlama) {
  MatrixCase c;
  c.style = style;
  c.dp = dp;
  c.tp = tp;
  c.pp = pp;
  c.zero = zero;
  return c;
}

struct Fault {
  MatrixCase on;
  DType type;
  int rank;
  const char* tensor;
  double value;
};

using State = std::map<std::string, std::vector<double>>;

struct Run {
  std::vector<double> losses;  // of the steps after kBad
  State state;
};

Run finish(comm::ProcessGrid& grid, app::Trainer& trainer) {
  Run run;
  while (trainer.completed() < kSteps) {
    const auto result = trainer.step();
    EXPECT_EQ(result.skipped, "");
    run.losses.push_back(result.loss);
  }
  run.state = logical_state(grid, trainer);
  return run;
}

// A run that never computes step kBad, but uses up its number and samples.
Run told_to_skip(comm::ProcessGrid& grid, const app::Deck& deck) {
  app::Trainer trainer(deck, grid);
  while (trainer.completed() < kBad - 1) trainer.step();
  trainer.set_progress(kBad, kBad * deck.train.global_batch);
  trainer.set_guard(R"({"not_finite": 1})");
  return finish(grid, trainer);
}

// The run whose step kBad meets `fault`, with what must hold on every rank.
Run with_fault(comm::ProcessGrid& grid, const app::Deck& deck,
               const std::function<void(app::Trainer&)>& fault,
               const std::function<void(app::Trainer&)>& repair) {
  app::Trainer trainer(deck, grid);
  while (trainer.completed() < kBad - 1) EXPECT_EQ(trainer.step().skipped, "");
  const auto before = logical_state(grid, trainer);
  fault(trainer);
  const auto result = trainer.step();
  repair(trainer);
  EXPECT_EQ(result.step, kBad);
  EXPECT_EQ(result.skipped, "not finite");
  EXPECT_FALSE(std::isfinite(result.loss) && std::isfinite(result.grad_norm));
  EXPECT_EQ(trainer.completed(), kBad);
  EXPECT_EQ(trainer.next_sample(), kBad * deck.train.global_batch);
  EXPECT_EQ(trainer.guard().not_finite(), 1);
  EXPECT_TRUE(logical_state(grid, trainer) == before) << "weights, moments or biases have moved";
  auto run = finish(grid, trainer);
  EXPECT_NO_THROW(
      app::ReplicaCheck(trainer.params(), grid, app::groups_of(deck, grid)).run(kSteps));
  return run;
}

void expect_same(const Run& run, const Run& reference) {
  EXPECT_EQ(run.losses, reference.losses);
  EXPECT_TRUE(run.state == reference.state);
}

void check(const Fault& f) {
  SCOPED_TRACE(fmt::format("{} {} rank {} {} {}", dtype_name(f.type), f.on.name(), f.rank, f.tensor,
                           f.value));
  ASSERT_TRUE(f.on.legal());
  ASSERT_EQ(f.on.ranks(), world().size());
  const auto deck = f.on.deck(tokens(), f.type);
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  const auto run = with_fault(
      grid, deck,
      [&](app::Trainer& trainer) {
        model::Sabotage poison;
        poison.poison = f.value;
        if (grid.world().rank() == f.rank) poison.poisoned_gradient = f.tensor;
        trainer.set_sabotage(poison);
      },
      [](app::Trainer& trainer) { trainer.set_sabotage({}); });
  expect_same(run, told_to_skip(grid, deck));
}

TEST(NumericalSkip, a_gradient_of_one_rank_skips_the_step_on_all_dense) {
  auto sp = dense(1, 4, 1, 0);
  sp.sequence_parallel = true;
  const std::vector<Fault> faults = {
      {dense(2, 2, 1, 0), DType::kF64, 3, "blocks.1.attention.k.weight", kNaN},
      // No norm of tp rank 1 counts in the sum of squares.
      {dense(2, 2, 1, 0), DType::kF32, 1, "blocks.1.mlp_norm.weight", kNaN},
      {dense(2, 2, 1, 1), DType::kBF16, 3, "final_norm.weight", kInfinity},
      {sp, DType::kF32, 2, "blocks.0.attention_norm.weight", -kInfinity},
      {sp, DType::kF64, 1, "blocks.4.attention.v.weight", kNaN},
      {dense(4, 1, 1, 1), DType::kF32, 2, "blocks.0.mlp.up.weight", kInfinity},
      {dense(4, 1, 1, 2), DType::kBF16, 1, "lm_head.weight", kNaN},
      {dense(4, 1, 1, 3), DType::kF64, 3, "blocks.2.attention.q.weight", kNaN},
      {dense(1, 1, 4, 0), DType::kF64, 0, "embed.tokens.weight", kNaN},
      {dense(1, 2, 2, 0, Style::kGpt2), DType::kF32, 3, "embed.tokens.weight", kNaN},
      {dense(2, 1, 2, 2, Style::kGpt2), DType::kBF16, 1, "embed.positions.weight", kNaN},
      {dense(2, 1, 2, 3, Style::kGpt2), DType::kF64, 2, "final_norm.weight", kInfinity},
  };
  for (const auto& fault : faults) check(fault);
}

TEST(NumericalSkip, a_gradient_of_one_rank_skips_the_step_on_all_with_experts_and_parts) {
  const auto balanced = of_style(Style::kLlama, Feed::kBalanced);
  const auto capacity = of_style(Style::kLlama, Feed::kTopKCapacity);
  for (const int zero : {0, 1, 2, 3}) {
    check({with_zero(with_experts(balanced, 2), 2, zero),
           zero % 2 == 0 ? DType::kF64 : DType::kBF16, 3, "blocks.1.moe.experts.2.up.weight",
           kNaN});
  }
  check({with_experts(capacity, 4), DType::kF32, 1, "blocks.0.moe.router.weight", kNaN});
  check({with_tensor(with_experts(balanced, 2), 2, true), DType::kF64, 2,
         "blocks.0.moe.experts.3.down.weight", kInfinity});
  check({with_stages(with_experts(balanced, 2), 2, ScheduleKind::kGPipe), DType::kF64, 2,
         "blocks.3.moe.experts.0.gate.weight", kNaN});
  check({with_zero(with_context(with_experts(balanced, 2), 2, ContextMethod::kRing), 1, 3),
         DType::kF32, 1, "blocks.0.attention.out.weight", kNaN});
}

// A weight that is not finite while one step uses it, on one rank: its activations are then not
// either, and travel through every exchange of the step.
void check_activations(const MatrixCase& on, int rank, const char* tensor) {
  SCOPED_TRACE(fmt::format("{} rank {} {}", on.name(), rank, tensor));
  ASSERT_TRUE(on.legal());
  ASSERT_EQ(on.ranks(), world().size());
  const auto deck = on.deck(tokens(), DType::kF32);
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  float kept = 0;
  const auto exchange = [&](app::Trainer& trainer, bool poison) {
    if (grid.world().rank() != rank) return;
    auto& params = trainer.params();
    const auto id = params.table().id(tensor);
    ASSERT_TRUE(params.layout().part(id).held);
    auto& first = params.weight(id).data<float>()[0];
    if (poison) kept = first;
    first = poison ? std::numeric_limits<float>::quiet_NaN() : kept;
    trainer.kernels().weights_changed();
  };
  // The state is the weights themselves here, so that it is compared by the steps that follow.
  app::Trainer trainer(deck, grid);
  while (trainer.completed() < kBad - 1) trainer.step();
  exchange(trainer, true);
  const auto result = trainer.step();
  exchange(trainer, false);
  EXPECT_EQ(result.skipped, "not finite");
  EXPECT_FALSE(std::isfinite(result.loss));
  expect_same(finish(grid, trainer), told_to_skip(grid, deck));
}

TEST(NumericalSkip, activations_that_are_not_finite_leave_nothing_behind) {
  check_activations(dense(2, 1, 2, 0), 1, "blocks.1.mlp.up.weight");
  check_activations(dense(1, 2, 2, 1, Style::kGpt2), 0, "embed.tokens.weight");
  check_activations(
      with_context(with_tensor(of_style(Style::kLlama), 2, true), 2, ContextMethod::kRing), 1,
      "blocks.0.attention.k.weight");
  for (const auto feed : {Feed::kTopK, Feed::kTopKShared, Feed::kTopKCapacity, Feed::kSwitch,
                          Feed::kBalanced, Feed::kExpertChoice}) {
    check_activations(with_zero(with_experts(of_style(Style::kLlama, feed), 2), 2, 0), 2,
                      "blocks.0.attention.q.weight");
  }
  check_activations(with_tensor(with_experts(of_style(Style::kLlama, Feed::kTopK), 2), 2, false), 3,
                    "blocks.2.mlp_norm.weight");
}

// The comparison above notices a step that was not skipped, and one that is skipped by number only.
TEST(NumericalSkipControl, another_run_is_another_run) {
  const auto deck = dense(4, 1, 1, 0).deck(tokens(), DType::kF64);
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  const auto reference = told_to_skip(grid, deck);
  app::Trainer straight(deck, grid);
  while (straight.completed() < kBad) straight.step();
  const auto updated = finish(grid, straight);
  EXPECT_NE(updated.losses, reference.losses);
  EXPECT_FALSE(updated.state == reference.state);

  app::Trainer same_data(deck, grid);
  while (same_data.completed() < kBad - 1) same_data.step();
  same_data.set_progress(kBad, (kBad - 1) * deck.train.global_batch);
  EXPECT_NE(finish(grid, same_data).losses, reference.losses);
}

TEST(NumericalSkip, so_many_in_a_row_end_the_run_on_all_ranks) {
  auto deck = dense(2, 1, 2, 1).deck(tokens(), DType::kF32);
  deck.train.max_skips = 3;
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  app::Trainer trainer(deck, grid);
  trainer.step();
  const auto before = logical_state(grid, trainer);
  model::Sabotage poison;
  poison.poison = kNaN;
  if (grid.world().rank() == 2) poison.poisoned_gradient = "final_norm.weight";
  for (int i = 0; i < 2; ++i) {
    trainer.set_sabotage(poison);
    EXPECT_EQ(trainer.step().skipped, "not finite");
  }
  trainer.set_sabotage(poison);
  try {
    trainer.step();
    ADD_FAILURE() << "a third one was skipped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumerical);
    EXPECT_EQ(error.ranks(), world().size());
    const std::string what = error.what();
    EXPECT_NE(what.find("step 4: loss"), std::string::npos) << what;
    EXPECT_NE(what.find("3 steps in a row got no update (train.max_skips = 3), 3 in all"),
              std::string::npos)
        << what;
  }
  EXPECT_TRUE(logical_state(grid, trainer) == before);
}

}  // namespace
}  // namespace pg::testing
