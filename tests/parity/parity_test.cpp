// The same deck and seed give the same losses on every legal grid: N ranks against one.
//
// Bounds. fp64: sums are only reassociated, so single gradients agree to about n eps = 1e-13; AdamW
// divides by the root of the second moment, which turns noise in near-zero gradients into noise of
// size lr * noise / eps_adam, and steps compound it: 1e-9 leaves four digits for that over 20 steps
// and is still far below the effect of any wrong term. fp32: a gradient element is a sum of n = 288
// token terms; reassociating it moves it by at most sqrt(n) eps (random walk, eps = 2^-24) relative
// to the norm of the terms, which cancellation makes up to ten times the norm of the sum: 10 * 17 *
// 6e-8 = 1e-5, with gradients below 1e-3 of the largest compared with that floor. Losses: Adam's
// first updates are lr * sign(g), so an element whose gradient is noise moves by up to 2 lr; with a
// share s ~ 1e-3 of such elements a loss moves relatively by about lr * s * 20 steps = 2e-4.
#include "parity.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace pg::testing {
namespace {

constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9, 1e-9};
constexpr ParityBounds kFp32{1e-5, 1e-3, 2e-4};

struct GridCase {
  std::string name;
  int ranks;
};

std::vector<GridCase> grids() {
  const int ranks = comm::Communicator::world().size();
  std::vector<GridCase> all;
  for (const int dp : {2, 3, 4}) {
    if (dp <= ranks) all.push_back({"dp" + std::to_string(dp), dp});
  }
  return all;
}

std::filesystem::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "parity", 9001, 61, 3);
  return path;
}

void expect_parity(const app::Deck& deck, const char* name, const ParityBounds& bounds) {
  const auto reference = one_rank(deck, 20);
  EXPECT_LT(reference.losses.back(), reference.losses.front()) << "nothing was learned";
  for (const auto& grid : grids()) {
    const auto result = compare(deck, grid.ranks, reference, bounds);
    EXPECT_LE(result.worst_gradient, bounds.gradient)
        << name << " on " << grid.name << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, bounds.loss)
        << name << " on " << grid.name << " at step " << result.worst_step;
    EXPECT_LE(result.worst_norm, bounds.norm) << name << " on " << grid.name;
    if (comm::Communicator::world().rank() == 0) {
      std::printf("    %-12s %-4s gradient %.1e of %.0e, loss %.1e of %.0e\n", name,
                  grid.name.c_str(), result.worst_gradient, bounds.gradient, result.worst_loss,
                  bounds.loss);
    }
  }
}

TEST(Parity, llama_in_fp64_is_the_same_on_every_grid) {
  expect_parity(llama_deck(tokens(), DType::kF64), "llama fp64", kFp64);
}

TEST(Parity, gpt2_with_dropout_in_fp64_is_the_same_on_every_grid) {
  expect_parity(gpt2_deck(tokens(), DType::kF64), "gpt2 fp64", kFp64);
}

TEST(Parity, llama_in_fp32_is_the_same_within_rounding) {
  expect_parity(llama_deck(tokens(), DType::kF32), "llama fp32", kFp32);
}

TEST(Parity, gpt2_with_dropout_in_fp32_is_the_same_within_rounding) {
  expect_parity(gpt2_deck(tokens(), DType::kF32), "gpt2 fp32", kFp32);
}

TEST(Parity, micro_batch_size_does_not_change_the_mathematics) {
  auto deck = gpt2_deck(tokens(), DType::kF64);
  const auto reference = one_rank(deck, 10);
  for (const std::int64_t micro_batch : {1, 3, 6, 24}) {
    deck.train.micro_batch = micro_batch;
    const auto result = compare(deck, 1, reference, kFp64);
    EXPECT_TRUE(result.within(kFp64))
        << micro_batch << ": gradient " << result.worst_gradient << " loss " << result.worst_loss;
  }
}

TEST(Parity, bf16_on_a_grid_is_as_close_to_fp64_as_on_one_rank) {
  // bf16's own rounding is far above any reassociation; so compare errors: the grid's distance from
  // the fp64 run may be at most 1.5 times one rank's.
  for (const auto make : {llama_deck, gpt2_deck}) {
    const auto exact = one_rank(make(tokens(), DType::kF64), 10);
    const auto single = one_rank(make(tokens(), DType::kBF16), 10);
    const double error = deviation(single.losses, exact.losses);
    EXPECT_LT(error, 0.05);
    for (const auto& grid : grids()) {
      auto world = comm::Communicator::world();
      const auto part = world.split(world.rank() < grid.ranks ? 0 : -1, world.rank());
      if (!part) continue;
      auto deck = make(tokens(), DType::kBF16);
      const auto trace = train(part, deck, 10);
      EXPECT_LE(deviation(trace.losses, exact.losses), 1.5 * error) << grid.name;
    }
  }
}

TEST(ParityControl, a_dropped_gradient_reduction_is_found) {
  const auto deck = llama_deck(tokens(), DType::kF64);
  const auto reference = one_rank(deck, 5);
  for (const auto& grid : grids()) {
    const auto result = compare(deck, grid.ranks, reference, kFp64, {.drop_replica_sum = true});
    EXPECT_GT(result.worst_gradient, 1e3 * kFp64.gradient) << grid.name;
    EXPECT_GT(result.worst_loss, 1e3 * kFp64.loss) << grid.name;
  }
}

TEST(ParityControl, another_seed_is_found) {
  auto deck = llama_deck(tokens(), DType::kF64);
  const auto reference = one_rank(deck, 3);
  deck.run.seed += 1;
  const auto result = compare(deck, 1, reference, kFp64);
  EXPECT_FALSE(result.within(kFp64));
}

}  // namespace
}  // namespace pg::testing
