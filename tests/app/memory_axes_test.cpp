// Planned bytes with parts of sequences (grid.cp, by each method) and with experts (grid.ep, by
// each routing): they are the formulas', and a run takes them.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "harness/tiny_run.h"
#include "tests/app/memory_checks.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::Recompute;
using model::RouterKind;

comm::Communicator world() {
  return comm::Communicator::world();
}

enum class Feed { kDense, kTopK, kShared, kCapacity, kSwitch, kBalanced, kChoice };
constexpr Feed kFeeds[] = {Feed::kDense,  Feed::kTopK,     Feed::kShared, Feed::kCapacity,
                           Feed::kSwitch, Feed::kBalanced, Feed::kChoice};
constexpr ContextMethod kMethods[] = {ContextMethod::kRing, ContextMethod::kUlysses,
                                      ContextMethod::kAllGather};
constexpr model::RecomputePlan kRecomputes[] = {
    {Recompute::kNone, 0}, {Recompute::kSelective, 3}, {Recompute::kFull, 0}};

// Temporaries share memory, and only the largest show: so each kind is the largest somewhere.
enum class Widest { kFeed, kAttention, kRouter };

struct Case {
  bool gpt2 = false;
  int dp = 1, tp = 1, pp = 1, ep = 1, cp = 1;
  bool sequence = false;
  ContextMethod method = ContextMethod::kRing;
  Feed feed = Feed::kDense;
  std::int64_t every = 1, sequences = 1;
  int zero = 0;
  model::RecomputePlan recompute{};
  Widest widest = Widest::kFeed;

  int ranks() const { return dp * tp * pp * ep * cp; }
  std::string text() const {
    return fmt::format(
        "{} dp {} tp {} pp {} ep {} cp {}{} method {} feed {} every {} x{} zero {} recompute {} "
        "widest {}",
        gpt2 ? "gpt2" : "llama", dp, tp, pp, ep, cp, sequence ? " sp" : "",
        static_cast<int>(method), static_cast<int>(feed), every, sequences, zero,
        static_cast<int>(recompute.mode), static_cast<int>(widest));
  }
};

void add_experts(app::Deck& deck, const Case& c) {
  auto& moe = deck.model.moe;
  moe.experts = c.ep > 2 ? c.ep : 6;  // one a rank, or several
  moe.ffn = 12;
  moe.every = c.every;
  moe.top_k = c.feed == Feed::kSwitch ? 1 : 2;
  moe.renormalize = c.feed == Feed::kTopK;
  moe.aux_loss = 0.01;
  moe.router = c.feed == Feed::kSwitch   ? RouterKind::kSwitch
               : c.feed == Feed::kChoice ? RouterKind::kExpertChoice
                                         : RouterKind::kTopK;
  if (c.feed == Feed::kCapacity || c.feed == Feed::kSwitch) moe.capacity_factor = 1.25;
  if (c.feed == Feed::kShared) moe.shared_experts = 2;
  if (c.feed == Feed::kBalanced) moe.bias_update = 0.01;
}

app::Deck deck_of(const Case& c, const std::filesystem::path& tokens, DType precision) {
  auto deck = c.gpt2 ? gpt2_deck(tokens, precision) : llama_deck(tokens, precision);
  deck.model.layers = 4;
  deck.model.heads = c.cp % 3 == 0 ? 6 : 8;
  deck.model.kv_heads = c.gpt2 ? deck.model.heads : 2;
  deck.model.head_dim = c.gpt2 ? 5 : 6;
  deck.model.ffn = c.gpt2 ? 56 : 44;
  deck.train.seq = deck.model.max_seq = c.cp % 3 == 0 ? 12 : 16;
  deck.train.micro_batch = c.sequences;
  deck.train.global_batch = 4 * c.sequences * c.dp * c.ep;
  deck.grid.dp = c.dp;
  deck.grid.tp = c.tp;
  deck.grid.pp = c.pp;
  deck.grid.ep = c.ep;
  deck.grid.cp = c.cp;
  deck.grid.zero = c.zero;
  deck.grid.sequence_parallel = c.sequence;
  deck.context.method = c.method;
  deck.recompute.mode = c.recompute.mode;
  deck.recompute.layers = c.recompute.layers;
  if (c.feed != Feed::kDense) add_experts(deck, c);
  if (c.widest != Widest::kFeed) {
    deck.model.ffn = deck.model.moe.ffn = 4;
    deck.model.vocab = 5;
  }
  if (c.widest == Widest::kRouter) {
    deck.model.hidden = 4;
    deck.model.head_dim = 2;
    deck.model.moe.experts *= 12;
  }
  return deck;
}

// Whether this method can cut the heads, which are the same for all cases of a cp.
bool legal(const Case& c) {
  const auto deck = deck_of(c, "", DType::kF64);
  if (!app::cut_problems(deck).empty()) return false;
  const auto kv = std::max<std::int64_t>(1, deck.model.kv_heads / c.tp);
  if (c.cp > 1 && c.method == ContextMethod::kUlysses) {
    return deck.model.heads / c.tp % c.cp == 0 && (kv % c.cp == 0 || c.cp % kv == 0);
  }
  return true;
}

// Each grid with each feed and, where there are parts of sequences, each method; the rest takes
// turns.
std::vector<Case> cases_of(const std::vector<Case>& grids) {
  std::vector<Case> all;
  int turn = 0;
  for (const auto& grid : grids) {
    for (const auto feed : kFeeds) {
      if (feed == Feed::kDense ? grid.ep > 1 : grid.ep == 1 && grid.cp == 1) continue;
      for (const auto method : kMethods) {
        if (grid.cp == 1 && method != ContextMethod::kRing) continue;
        ++turn;
        auto c = grid;
        c.feed = feed;
        c.method = method;
        c.gpt2 = turn % 2 == 0;
        c.every = turn / 2 % 2 + 1;
        c.sequence = c.tp > 1 && turn / 3 % 2 == 0;
        c.sequences = turn / 2 % 3 == 0 ? 2 : 1;
        c.zero = turn % 4;
        c.recompute = kRecomputes[turn % 3];
        if (legal(c)) all.push_back(c);
      }
    }
  }
  return all;
}

// Grids of any size: a plan needs no ranks. They share the work.
TEST(MemoryAxes, planned_bytes_are_the_formulas) {
  std::vector<Case> grids;
  for (const int tp : {1, 2, 4}) {
    for (const int pp : {1, 2}) {
      for (const int ep : {1, 2, 4}) {
        for (const int cp : {1, 2, 3, 4}) {
          for (const int dp : {1, 2}) {
            if (ep * cp > 1) grids.push_back({.dp = dp, .tp = tp, .pp = pp, .ep = ep, .cp = cp});
          }
        }
      }
    }
  }
  std::vector<Case> cases;
  for (const auto widest : {Widest::kFeed, Widest::kAttention, Widest::kRouter}) {
    for (auto c : cases_of(grids)) {
      c.widest = widest;
      if (widest != Widest::kRouter || c.feed != Feed::kDense) cases.push_back(c);
    }
  }
  EXPECT_GT(cases.size(), 1000U);
  for (auto i = static_cast<std::size_t>(world().rank()); i < cases.size();
       i += static_cast<std::size_t>(world().size())) {
    const auto& c = cases[i];
    // Each of the usual ones in each type, the rest in turn.
    constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kBF16};
    for (std::size_t t = 0; t < 3; ++t) {
      const auto type = kTypes[t];
      if (c.widest != Widest::kFeed && i / 4 % 3 != t) continue;
      const auto deck = deck_of(c, "", type);
      const comm::GridShape shape(c.dp, c.tp, c.pp, c.ep, c.cp);
      for (int stage = 0; stage < c.pp; ++stage) {
        comm::Coord coord;
        coord[comm::Axis::kPP] = stage;
        // Some rank of the others.
        coord[comm::Axis::kTP] = static_cast<int>(i) % c.tp;
        coord[comm::Axis::kCP] = static_cast<int>(i) % c.cp;
        coord[comm::Axis::kEP] = static_cast<int>(i) % c.ep;
        expect_formulas(deck, shape, coord, c.text());
      }
    }
  }
}

std::vector<Case> grids_of(int ranks) {
  if (ranks == 3) return {{.cp = 3}, {.ep = 3}};
  return {{.cp = 4}, {.tp = 2, .cp = 2}, {.dp = 2, .cp = 2}, {.pp = 2, .cp = 2}, {.ep = 2, .cp = 2},
          {.ep = 4}, {.tp = 2, .ep = 2}, {.dp = 2, .ep = 2}, {.pp = 2, .ep = 2}};
}

// How many rows a rank's experts receive is known before only where nothing can be dropped and no
// other rank sends any, or where experts choose in sequences that are whole.
bool load_is_known(const Case& c) {
  if (c.feed == Feed::kDense) return true;
  if (c.feed == Feed::kChoice) return c.cp == 1;
  return c.ep == 1 && c.feed != Feed::kCapacity && c.feed != Feed::kSwitch;
}

TEST(MemoryAxes, a_run_takes_the_planned_bytes_or_with_uneven_experts_less_than_the_most) {
  const auto tokens =
      make_tokens(world(), "memory_axes" + std::to_string(world().size()), 1201, 61, 5);
  for (const auto& c : cases_of(grids_of(world().size()))) {
    const auto deck = deck_of(c, tokens, DType::kF64);
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
    app::Trainer trainer(deck, grid);
    trainer.step();
    const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
    if (load_is_known(c)) {
      EXPECT_EQ(trainer.arena_high_water(), plan.activations) << c.text();
      EXPECT_EQ(plan.activations_most, plan.activations) << c.text();
    } else {
      EXPECT_LE(trainer.arena_high_water(), plan.activations_most) << c.text();
      EXPECT_LE(plan.activations, plan.activations_most) << c.text();
    }
    expect_parameters_taken(trainer.params(), plan, c.text());
  }
}

// What reductions receive into: the gradients of gathered keys come from all ranks of cp.
TEST(MemoryAxes, sums_of_gathered_keys_need_room) {
  const auto plan_of = [](const Case& c) {
    return app::plan_memory(deck_of(c, "", DType::kBF16),
                            comm::GridShape(c.dp, c.tp, c.pp, c.ep, c.cp), {});
  };
  Case c{.cp = 4};
  const auto ring = plan_of(c).communication;
  c.method = ContextMethod::kAllGather;
  // 3 parts of 4 positions, 2 KV heads of 6, keys and values in fp32.
  EXPECT_EQ(plan_of(c).communication - ring, 3 * 4 * 2 * 2 * 6 * 4);
}

}  // namespace
}  // namespace pg::testing
