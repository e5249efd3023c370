// The same of experts and of parts of sequences: each expert's tensors, the routers' biases, and
// dense tensors whose replicas are ep and cp ranks, from grid to grid.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/app/saved_run.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;

std::filesystem::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "reshard_axes", 2401, 61, 3);
  return path;
}

TEST(ReshardAxes, a_checkpoint_of_one_grid_continues_on_another) {
  const auto balanced = of_style(Style::kLlama, Feed::kBalanced);
  const auto shared = of_style(Style::kGpt2, Feed::kTopKShared);
  const auto choice = of_style(Style::kLlama, Feed::kExpertChoice);
  const auto documents = with_mask(of_style(Style::kGpt2), Mask::kDocuments);
  const auto tp2_ep2 = with_tensor(with_experts(balanced, 2), 2, true);
  const auto pp2_cp2 =
      with_stages(with_context(balanced, 2, ContextMethod::kRing), 2, ScheduleKind::kInterleaved);
  const auto three_axes = with_recompute(
      with_tensor(with_context(with_experts(balanced, 2), 2, ContextMethod::kAllGather), 2, true),
      Recompute::kFull);
  const std::vector<Move> moves = {
      {"ep 2 dp 2 to ep 4 zero 3", DType::kF64, with_zero(with_experts(balanced, 2), 2, 0),
       with_zero(with_experts(balanced, 4), 1, 3)},
      {"ep 4 dp 2 zero 3 to tp 2 ep 2 zero 1", DType::kF64,
       with_zero(with_experts(balanced, 4), 2, 3), with_zero(tp2_ep2, 1, 1)},
      {"tp 2 ep 2 zero 2 to pp 2 cp 2", DType::kF64, with_zero(tp2_ep2, 2, 2), pp2_cp2},
      {"pp 2 cp 2 zero 3 to one rank", DType::kF64, with_zero(pp2_cp2, 1, 3), balanced},
      {"one rank to ep 2 cp 2 tp 2 zero 3", DType::kF64, balanced, with_zero(three_axes, 1, 3)},
      {"experts in every second block, ep 2 pp 2 zero 1 to cp 4 dp 2 zero 2", DType::kF64,
       with_zero(with_stages(with_experts(shared, 2), 2, ScheduleKind::k1F1B), 2, 1),
       with_zero(with_context(shared, 4, ContextMethod::kUlysses), 2, 2)},
      {"expert choice, ep 2 cp 2 zero 2 to ep 4 dp 2 zero 3", DType::kF64,
       with_zero(with_context(with_experts(choice, 2), 2, ContextMethod::kUlysses), 1, 2),
       with_zero(with_experts(choice, 4), 2, 3)},
      {"cp 3 zero 3 to cp 4 pp 2", DType::kF64,
       with_zero(with_context(documents, 3, ContextMethod::kRing), 2, 3),
       with_stages(with_context(documents, 4, ContextMethod::kAllGather), 2, ScheduleKind::kGPipe)},
  };
  // parity_test.cpp
  for (const auto& move : moves) expect_same_run(move, tokens(), 1e-9);
  expect_same_run(
      {"the same grid", DType::kF32, with_zero(three_axes, 1, 3), with_zero(three_axes, 1, 3)},
      tokens(), 0.0);
}

TEST(ReshardAxesControl, router_biases_of_one_rank_dropped_after_the_load_are_found) {
  const auto balanced = of_style(Style::kLlama, Feed::kBalanced);
  const auto first = save_on(balanced, tokens(), DType::kF64);
  const auto to = with_experts(balanced, 2);
  const auto sound = load_on(to, tokens(), DType::kF64);
  const auto broken =
      load_on(to, tokens(), DType::kF64, {Damage::What::kRouterBias, /*rank=*/1, ""});
  if (!root()) return;
  const auto& bias = first.state.at("blocks.0.moe.router.bias");
  EXPECT_TRUE(std::any_of(bias.begin(), bias.end(), [](double b) { return b != 0.0; }));
  EXPECT_LE(worst_loss(sound, first), 1e-9);
  EXPECT_GT(worst_loss(broken, first), 1e3 * 1e-9);
  fmt::print("    without rank 1's biases: losses off by {:.1e}\n", worst_loss(broken, first));
}

}  // namespace
}  // namespace pg::testing
