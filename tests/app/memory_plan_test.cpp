// Planned bytes are those that a run takes, on every rank's own coordinate; and both are what the
// formulas of the literature say (harness/memory_formula.h).
#include "app/memory_plan.h"

#include <gtest/gtest.h>

#include "app/parallel_plan.h"
#include "harness/tiny_run.h"
#include "tests/app/memory_checks.h"

namespace pg::testing {
namespace {

using model::Recompute;
using model::ScheduleKind;

comm::Communicator world() {
  return comm::Communicator::world();
}

struct Case {
  bool gpt2;
  int dp, tp, pp;
  bool sequence;
  ScheduleKind schedule;
  int zero;
  model::RecomputePlan recompute;

  std::string text() const {
    return fmt::format("{} dp {} tp {} pp {} {}{} zero {} recompute {} of {} layers",
                       gpt2 ? "gpt2" : "llama", dp, tp, pp, model::schedule_name(schedule),
                       sequence ? " sp" : "", zero, static_cast<int>(recompute.mode),
                       recompute.layers);
  }
};

// Widths of no round number, so that padding shows; four micro-batches or more.
app::Deck deck_of(const Case& c, DType precision) {
  static const auto tokens =
      make_tokens(world(), "memory" + std::to_string(world().size()), 1201, 61, 5);
  auto deck = c.gpt2 ? gpt2_deck(tokens, precision) : llama_deck(tokens, precision);
  deck.model.layers = 5;
  deck.model.heads = c.gpt2 ? 6 : 8;
  deck.model.kv_heads = c.gpt2 ? 6 : 2;
  deck.model.head_dim = c.gpt2 ? 5 : 6;
  deck.model.ffn = c.gpt2 ? 54 : 44;
  deck.train.global_batch = 12;
  deck.train.micro_batch = 1;
  deck.grid.dp = c.dp;
  deck.grid.tp = c.tp;
  deck.grid.pp = c.pp;
  deck.grid.zero = c.zero;
  deck.grid.sequence_parallel = c.sequence;
  deck.pipeline.schedule = c.schedule;
  deck.pipeline.chunks = c.schedule == ScheduleKind::kInterleaved ? 2 : 1;
  deck.recompute.mode = c.recompute.mode;
  deck.recompute.layers = c.recompute.layers;
  return deck;
}

// Every ZeRO stage with every recomputation on every grid of this many ranks that the models allow.
std::vector<Case> cases() {
  std::vector<Case> all;
  const std::vector<model::RecomputePlan> recomputes{
      {Recompute::kNone, 0}, {Recompute::kSelective, 3}, {Recompute::kFull, 0}};
  const int ranks = world().size();
  int turn = 0;
  for (int tp = 1; tp <= ranks; ++tp) {
    for (int pp = 1; pp <= ranks / tp; ++pp) {
      if (ranks % (tp * pp) != 0) continue;
      for (int zero = 0; zero <= 3; ++zero) {
        for (const auto& recompute : recomputes) {
          // The models, the schedules and sequence parallelism take turns.
          ++turn;
          Case c{turn % 2 == 0,
                 ranks / (tp * pp),
                 tp,
                 pp,
                 tp > 1 && turn / 2 % 2 == 0,
                 ScheduleKind::k1F1B,
                 zero,
                 recompute};
          if (pp > 1 && turn % 3 == 0) c.schedule = ScheduleKind::kGPipe;
          if (pp == 2 && turn % 3 == 1) c.schedule = ScheduleKind::kInterleaved;
          if (app::cut_problems(deck_of(c, DType::kF64)).empty()) all.push_back(c);
          c.gpt2 = !c.gpt2;
          if (app::cut_problems(deck_of(c, DType::kF64)).empty()) all.push_back(c);
        }
      }
    }
  }
  return all;
}

TEST(MemoryPlan, planned_bytes_are_those_taken_on_every_coordinate) {
  for (const auto& c : cases()) {
    const auto deck = deck_of(c, DType::kF64);
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
    app::Trainer trainer(deck, grid);
    trainer.step();
    const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
    EXPECT_EQ(trainer.arena_high_water(), plan.activations) << c.text();
    EXPECT_EQ(plan.activations_most, plan.activations) << c.text();
    expect_parameters_taken(trainer.params(), plan, c.text());
  }
}

// No storage here: a plan is arithmetic, so the larger types cost nothing.
TEST(MemoryPlan, planned_bytes_are_the_formulas) {
  for (const auto& c : cases()) {
    if (c.schedule == ScheduleKind::kInterleaved) continue;
    for (const auto type : {DType::kF64, DType::kF32, DType::kBF16}) {
      const auto deck = deck_of(c, type);
      const auto shape = app::grid_of(deck, world().size());
      expect_formulas(deck, shape, shape.coord(comm::WorldRank{world().rank()}), c.text());
    }
  }
}

// Each matrix is packed on one stage: a tied table's first stage only looks up in it.
TEST(MemoryPlan, stages_pack_the_matrices_of_one_rank) {
  const Case c{true, 1, 1, 2, false, ScheduleKind::k1F1B, 0, {}};
  const auto deck = deck_of(c, DType::kBF16);
  const auto stages = app::plan_stages(deck, comm::GridShape(1, 1, 2, 1, 1));
  const auto whole = app::plan_memory(deck, comm::GridShape(1, 1, 1, 1, 1), {});
  // And a call packs one activation, on each stage: here the feed-forward layer's, 12 tokens of 54.
  const std::int64_t activation = 12 * 54 * 2;
  EXPECT_EQ(stages[0].packed + stages[1].packed, whole.packed + activation);
}

// What libraries work in on a GPU: 66 MiB, or the gradient of the attention's scores where cuDNN
// computes it.
TEST(MemoryPlan, a_gpu_s_workspaces_are_counted) {
  constexpr std::int64_t kProducts = std::int64_t{66} << 20;
  auto deck = deck_of({true, 1, 1, 1, false, ScheduleKind::k1F1B, 0, {}}, DType::kBF16);
  deck.run.device = "cuda";
  deck.model.heads = deck.model.kv_heads = 16;
  deck.model.head_dim = 8;
  deck.model.dropout = 0.0;
  deck.model.max_seq = deck.train.seq = 4096;
  const comm::GridShape one(1, 1, 1, 1, 1);
  const auto workspace = [&](const comm::GridShape& shape) {
    return app::plan_memory(deck, shape, {}).workspace;
  };
  const std::int64_t scores = std::int64_t{16} * 4096 * 4096 * 2;
  EXPECT_EQ(workspace(one), scores);
  deck.grid.tp = 2;
  EXPECT_EQ(workspace(comm::GridShape(1, 2, 1, 1, 1)), scores / 2);
  deck.grid.tp = 1;
  deck.grid.cp = 2;
  deck.context.method = model::ContextMethod::kUlysses;
  EXPECT_EQ(workspace(comm::GridShape(1, 1, 1, 1, 2)), scores / 2);
  deck.model.kv_heads = 1;  // which is copied
  EXPECT_EQ(workspace(comm::GridShape(1, 1, 1, 1, 2)), kProducts);
  deck.context.method = model::ContextMethod::kRing;
  EXPECT_EQ(workspace(comm::GridShape(1, 1, 1, 1, 2)), kProducts);
  deck.grid.cp = 1;
  deck.train.micro_batch = 12;  // 6 GiB: more than cuDNN is given
  EXPECT_EQ(workspace(one), kProducts);
  deck.train.micro_batch = 6;
  EXPECT_EQ(workspace(one), 6 * scores);
  deck.model.dropout = 0.1;
  EXPECT_EQ(workspace(one), kProducts);
  deck.run.device = "cpu";
  EXPECT_EQ(workspace(one), 0);
}

// Room for the other replicas' parts of the two places whose sums are on their way: in the end two
// blocks, which are the largest places here.
TEST(MemoryPlan, sums_over_replicas_need_room_for_the_others) {
  Case c{true, world().size(), 1, 1, false, ScheduleKind::k1F1B, 0, {}};
  const auto plan_of = [&](int zero) {
    c.zero = zero;
    const auto deck = deck_of(c, DType::kBF16);
    const auto shape = app::grid_of(deck, world().size());
    return app::plan_memory(deck, shape, shape.coord(comm::WorldRank{world().rank()}));
  };
  const std::int64_t n = world().size();
  const auto one = plan_of(1), two = plan_of(2), three = plan_of(3);
  const auto deck = deck_of(c, DType::kBF16);
  const auto shape = app::grid_of(deck, world().size());
  const auto layout = app::layout_of(deck, app::sharding_of(deck, shape, {}));
  const auto pieces = 2 * layout.place(model::ParamTable::block_place(0)).piece;
  for (const auto& plan : {one, two, three}) {
    EXPECT_EQ(plan.communication, (n - 1) * 4 * pieces);
  }
}

// Gathered keys and values: the gradients of their owner's part come from each of the others.
TEST(MemoryPlan, gathered_keys_need_room_for_the_gradients_of_others) {
  auto deck = deck_of({false, 1, 1, 1, false, ScheduleKind::k1F1B, 0, {}}, DType::kBF16);
  const comm::GridShape shape(1, 1, 1, 1, 3);
  deck.grid.cp = 3;
  deck.context.method = model::ContextMethod::kRing;
  const auto ring = app::plan_memory(deck, shape, {});
  deck.context.method = model::ContextMethod::kAllGather;
  const auto gathered = app::plan_memory(deck, shape, {});
  const auto keys = deck.train.seq / 3 * 2 * deck.model.kv_width();
  EXPECT_EQ(gathered.communication - ring.communication, 2 * keys * 4);
}

// Routers without weights find all experts equal: every token takes the first ones, those of ep
// rank 0, which then takes what was reserved to the last byte, and nobody more.
TEST(MemoryPlan, the_largest_load_takes_the_bytes_that_were_reserved_for_it) {
  const int ranks = world().size();
  for (const auto mode : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    for (const double capacity : {0.0, 1.0}) {
      auto deck = deck_of({false, 0, 1, 1, false, ScheduleKind::k1F1B, 0, {mode, 0}}, DType::kF64);
      auto& moe = deck.model.moe;
      moe.experts = 4 * ranks;
      moe.top_k = 3;
      moe.ffn = 10;
      moe.capacity_factor = capacity;
      moe.shared_experts = 1;
      moe.every = 2;
      deck.grid.ep = ranks;
      comm::ProcessGrid grid(world(), app::grid_of(deck, ranks));
      app::Trainer trainer(deck, grid);
      auto& params = trainer.params();
      for (std::size_t id = 0; id < params.table().size(); ++id) {
        if (!params.table()[id].name.ends_with("router.weight")) continue;
        const auto weights = params.kept_exact(id);
        std::fill_n(weights.data<double>(), weights.elements(), 0.0);
      }
      trainer.step();
      const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
      const auto text = fmt::format("recompute {} capacity {}", static_cast<int>(mode), capacity);
      EXPECT_LE(trainer.arena_high_water(), plan.activations_most) << text;
      if (grid.coord()[comm::Axis::kEP] == 0 && capacity == 0.0) {
        EXPECT_EQ(trainer.arena_high_water(), plan.activations_most) << text;
      }
    }
  }
}

}  // namespace
}  // namespace pg::testing
