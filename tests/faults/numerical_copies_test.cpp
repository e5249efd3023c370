// One bit of one copy of a weight is flipped: the comparison of copies ends the run on all ranks,
// naming the rank. And on grids of every kind, while nothing is flipped, copies stay equal bit for
// bit.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "app/parallel_plan.h"
#include "tests/parity/axes.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::ScheduleKind;

comm::Communicator world() {
  return comm::Communicator::world();
}

std::filesystem::path tokens() {
  static const auto path = make_tokens(world(), "numerical_copies", 2401, 61, 3);
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

MatrixCase sp(MatrixCase c) {
  c.sequence_parallel = true;
  return c;
}

app::Deck deck_of(const MatrixCase& on, DType type) {
  auto deck = on.deck(tokens(), type);
  deck.run.replica_check = 1;
  return deck;
}

enum class What { kWeight, kExact, kRouterBias };

// The lowest bit of the first element.
void flip(app::Trainer& trainer, const char* tensor, What what) {
  auto& params = trainer.params();
  model::TensorView view;
  if (what == What::kRouterBias) {
    view = params.router_bias(0);
  } else {
    const auto id = params.table().id(tensor);
    ASSERT_TRUE(params.layout().part(id).held) << tensor;
    view = what == What::kExact ? params.kept_exact(id) : params.weight(id);
  }
  ASSERT_GT(view.elements(), 0) << tensor;
  *static_cast<unsigned char*>(view.raw()) ^= 1;
  trainer.kernels().weights_changed();
}

struct Flip {
  MatrixCase on;
  DType type;
  int rank;
  const char* tensor;
  What what;
  std::string named;  // by the message
};

std::string name_of(const Flip& f) {
  return fmt::format("{} {} rank {} {}", dtype_name(f.type), f.on.name(), f.rank, f.tensor);
}

void check(const Flip& f) {
  SCOPED_TRACE(name_of(f));
  ASSERT_TRUE(f.on.legal());
  ASSERT_EQ(f.on.ranks(), world().size());
  const auto deck = deck_of(f.on, f.type);
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  app::Trainer trainer(deck, grid);
  for (int i = 0; i < 2; ++i) EXPECT_GT(trainer.step().check_seconds, 0);
  if (grid.world().rank() == f.rank) flip(trainer, f.tensor, f.what);
  const auto expect_found = [&](const std::function<void()>& work) {
    try {
      work();
      ADD_FAILURE() << "nothing was found";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kNumerical);
      EXPECT_EQ(error.ranks(), world().size());
      const std::string what = error.what();
      EXPECT_NE(what.find(f.named), std::string::npos) << what;
      EXPECT_NE(what.find(f.tensor), std::string::npos) << what;
      EXPECT_NE(what.find("(" + grid.host() + ")"), std::string::npos) << what;
    }
  };
  expect_found([&] { trainer.records_to_save(); });
  expect_found([&] { trainer.step(); });
}

TEST(NumericalCopies, a_flipped_bit_of_a_dense_weight_names_the_rank) {
  const std::vector<Flip> flips = {
      {dense(4, 1, 1, 0), DType::kF32, 2, "blocks.1.mlp.up.weight", What::kWeight,
       "rank 2 is the one that is wrong"},
      {dense(4, 1, 1, 0), DType::kF64, 0, "embed.tokens.weight", What::kWeight,
       "rank 0 is the one that is wrong"},
      {dense(4, 1, 1, 0), DType::kBF16, 3, "final_norm.weight", What::kExact,
       "rank 3 is the one that is wrong"},
      // What ZeRO gathered last.
      {dense(4, 1, 1, 1), DType::kF32, 1, "lm_head.weight", What::kWeight,
       "rank 1 is the one that is wrong"},
      {dense(4, 1, 1, 2), DType::kBF16, 2, "blocks.0.attention.q.weight", What::kWeight,
       "rank 2 is the one that is wrong"},
      // Two copies: both are named.
      {dense(2, 1, 2, 0), DType::kF32, 1, "blocks.0.mlp.gate.weight", What::kWeight,
       "between ranks 0 ("},
      {with_context(of_style(Style::kLlama), 4, ContextMethod::kRing), DType::kF32, 1,
       "blocks.3.mlp.down.weight", What::kWeight, "rank 1 is the one that is wrong"},
  };
  for (const auto& f : flips) check(f);
}

TEST(NumericalCopies, a_flipped_bit_of_a_copy_over_tp_or_pp_names_the_rank) {
  const std::vector<Flip> flips = {
      // Its copies over dp and over tp meet in it.
      {dense(2, 2, 1, 0), DType::kF32, 3, "blocks.1.mlp_norm.weight", What::kWeight,
       "rank 3 is the one that is wrong"},
      {sp(dense(1, 4, 1, 0)), DType::kF64, 1, "final_norm.weight", What::kWeight,
       "rank 1 is the one that is wrong"},
      // Two KV heads on four ranks.
      {dense(1, 4, 1, 0), DType::kF32, 2, "blocks.2.attention.k.weight", What::kWeight,
       "between ranks 2 ("},
      // The pieces of stage 3 have copies over tp alone; the first norm is in the first piece.
      {sp(dense(2, 2, 1, 3)), DType::kF32, 1, "blocks.0.attention_norm.weight", What::kExact,
       "between ranks 0 ("},
      {dense(2, 2, 1, 2), DType::kBF16, 1, "blocks.0.attention_norm.weight", What::kExact,
       "between ranks 0 ("},
      {dense(1, 2, 2, 0, Style::kGpt2), DType::kF32, 3, "embed.tokens.weight", What::kWeight,
       "between ranks 1 ("},
      {dense(2, 1, 2, 3, Style::kGpt2), DType::kF32, 2, "embed.tokens.weight", What::kExact,
       "between ranks 0 ("},
  };
  for (const auto& f : flips) check(f);
}

TEST(NumericalCopies, a_flipped_bit_of_an_expert_or_a_router_names_the_rank) {
  const auto balanced = of_style(Style::kLlama, Feed::kBalanced);
  const std::vector<Flip> flips = {
      {with_context(with_zero(balanced, 2, 0), 2, ContextMethod::kRing), DType::kF32, 3,
       "blocks.1.moe.experts.2.up.weight", What::kWeight, "rank 3 is the one that is wrong"},
      // Ranks 1 and 3 hold experts 2 and 3.
      {with_zero(with_experts(balanced, 2), 2, 0), DType::kF64, 3,
       "blocks.0.moe.experts.3.down.weight", What::kWeight, "between ranks 1 ("},
      {with_zero(with_experts(balanced, 2), 2, 2), DType::kBF16, 2,
       "blocks.0.moe.experts.1.gate.weight", What::kWeight, "between ranks 0 ("},
      {with_experts(balanced, 4), DType::kF32, 1, "blocks.0.moe.router.bias", What::kRouterBias,
       "rank 1 is the one that is wrong"},
      {with_experts(balanced, 4), DType::kF32, 2, "blocks.2.moe.router.weight", What::kWeight,
       "rank 2 is the one that is wrong"},
  };
  for (const auto& f : flips) check(f);
}

TEST(NumericalCopies, two_wrong_ranks_are_both_named_and_none_is_the_one) {
  const auto deck = deck_of(dense(4, 1, 1, 0), DType::kF32);
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  app::Trainer trainer(deck, grid);
  const int rank = grid.world().rank();
  if (rank == 1) flip(trainer, "blocks.0.mlp.up.weight", What::kWeight);
  if (rank == 3) flip(trainer, "blocks.1.mlp.up.weight", What::kWeight);
  try {
    trainer.step();
    ADD_FAILURE() << "nothing was found";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("blocks.0.mlp.up.weight of rank 1 ("), std::string::npos) << what;
    EXPECT_NE(what.find("blocks.1.mlp.up.weight of rank 3 ("), std::string::npos) << what;
    EXPECT_EQ(what.find("is the one"), std::string::npos) << what;
  }
}

TEST(NumericalCopies, copies_stay_equal_on_every_kind_of_grid) {
  const auto balanced = of_style(Style::kLlama, Feed::kBalanced);
  const auto shared = of_style(Style::kGpt2, Feed::kTopKShared);
  const auto capacity = of_style(Style::kGpt2, Feed::kTopKCapacity);
  std::vector<MatrixCase> cases;
  for (const int zero : {0, 1, 2, 3}) {
    cases.push_back(sp(dense(2, 2, 1, zero, Style::kGpt2)));
    cases.push_back(dense(2, 1, 2, zero, Style::kGpt2));
    cases.push_back(with_zero(with_experts(balanced, 2), 2, zero));
    cases.push_back(with_tensor(with_zero(with_experts(shared, 2), 1, zero), 2, zero % 2 == 0));
  }
  cases.push_back(dense(1, 4, 1, 0));
  cases.push_back(sp(dense(1, 4, 1, 0)));
  cases.push_back(with_tensor(with_context(balanced, 2, ContextMethod::kUlysses), 2, true));
  cases.push_back(with_tensor(with_context(shared, 2, ContextMethod::kRing), 2, false));
  cases.push_back(with_stages(with_experts(capacity, 2), 2, ScheduleKind::k1F1B));
  cases.push_back(with_stages(with_tensor(capacity, 2, false), 2, ScheduleKind::kGPipe));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto type = i % 2 == 0 ? DType::kF32 : DType::kBF16;
    const auto& on = cases[i];
    SCOPED_TRACE(std::string(dtype_name(type)) + " " + on.name());
    ASSERT_TRUE(on.legal());
    ASSERT_EQ(on.ranks(), world().size());
    const auto deck = deck_of(on, type);
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
    app::Trainer trainer(deck, grid);
    for (int step = 0; step < 4; ++step) EXPECT_NO_THROW(trainer.step());
    EXPECT_NO_THROW(trainer.records_to_save());
  }
}

}  // namespace
}  // namespace pg::testing
