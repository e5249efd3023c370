// `verify` on grids of experts and of cut sequences: sound ones agree with one rank, and each
// broken sum is found and its layer named.
#include <gtest/gtest.h>

#include "harness/tiny_run.h"
#include "tests/app/verify_run.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::RouterKind;

struct Case {
  const char* name;
  int dp, tp, pp, ep, cp;
  ContextMethod method = ContextMethod::kRing;
  std::int64_t experts = 0;
  RouterKind router = RouterKind::kTopK;
  int zero = 0;
  bool sequence = false;
  std::int64_t every = 1;
  double capacity = 0;

  int ranks() const { return dp * tp * pp * ep * cp; }
  // 4 layers; the batch is that of every grid here.
  app::Deck deck() const {
    static const auto tokens =
        make_tokens(world(), "verify_axes" + std::to_string(world().size()), 2401, 61, 5);
    auto deck = llama_deck(tokens, DType::kBF16);
    deck.model.layers = 4;
    deck.model.heads = 8;
    deck.model.ffn = 40;
    deck.train.global_batch = 16;
    deck.train.micro_batch = 1;
    deck.grid = {dp, tp, pp, ep, cp, zero, sequence};
    deck.context.method = method;
    auto& moe = deck.model.moe;
    moe.ffn = 20;
    moe.experts = experts;
    if (experts == 0) return deck;
    moe.router = router;
    moe.renormalize = router == RouterKind::kTopK;
    moe.top_k = router == RouterKind::kSwitch ? 1 : 2;
    moe.capacity_factor = capacity;
    moe.shared_experts = 1;
    moe.every = every;
    moe.aux_loss = router == RouterKind::kExpertChoice ? 0 : 0.1;
    moe.z_loss = 0.01;
    moe.bias_update = router == RouterKind::kTopK ? 0.01 : 0;
    return deck;
  }
};

const Case kSound[] = {
    {"one rank", 1, 1, 1, 1, 1, ContextMethod::kRing, 4, RouterKind::kTopK},
    {"dp2 ep2 zero3", 2, 1, 1, 2, 1, ContextMethod::kRing, 4, RouterKind::kTopK, 3},
    {"ep2 tp2 sp, switch that drops", 1, 2, 1, 2, 1, ContextMethod::kRing, 4, RouterKind::kSwitch,
     1, true, 1, 1.0},
    {"pp2 ep2, every second block", 1, 1, 2, 2, 1, ContextMethod::kRing, 4, RouterKind::kTopK, 2,
     false, 2},
    {"dp2 cp2 ring", 2, 1, 1, 1, 2},
    {"tp2 cp2 ulysses sp", 1, 2, 1, 1, 2, ContextMethod::kUlysses, 0, RouterKind::kTopK, 0, true},
    {"pp2 cp2 allgather zero1", 1, 1, 2, 1, 2, ContextMethod::kAllGather, 0, RouterKind::kTopK, 1},
    {"ep2 cp2 ring, expert choice", 1, 1, 1, 2, 2, ContextMethod::kRing, 4,
     RouterKind::kExpertChoice},
    {"ep2 cp2 tp2 ring sp zero2", 1, 2, 1, 2, 2, ContextMethod::kRing, 4, RouterKind::kTopK, 2,
     true, 1, 1.0},
    {"ep4 cp2 ulysses zero1, switch", 1, 1, 1, 4, 2, ContextMethod::kUlysses, 4,
     RouterKind::kSwitch, 1},
};

TEST(VerifyAxes, sound_grids_agree_with_one_rank) {
  int cases = 0;
  for (const auto& c : kSound) {
    if (c.ranks() != world().size()) continue;
    ++cases;
    const auto outcome = verify(c.deck());
    EXPECT_EQ(outcome.code, ExitCode::kDone) << c.name << ": " << outcome.error;
    if (world().rank() > 0) continue;
    EXPECT_TRUE(has(outcome.text, "the grid computes what one rank does")) << outcome.text;
    EXPECT_TRUE(layers_over(outcome.text).empty()) << outcome.text;
  }
  EXPECT_GE(cases, 1);
}

struct Control {
  Case on;
  model::Sabotage sabotage;
  std::vector<std::string> over;  // the layers that must be over the bound, and no others
  const char* named;              // in the message
};

std::vector<Control> controls() {
  const std::vector<std::string> blocks{"block 0", "block 1", "block 2", "block 3"};
  auto below_the_head = blocks, all = blocks;
  below_the_head.insert(below_the_head.begin(), "embedding");
  all = below_the_head;
  all.push_back("final norm, head");
  return {
      {{"experts that others hold", 2, 1, 1, 2, 1, ContextMethod::kRing, 4},
       {.sum_experts_over_all = true},
       blocks,
       ".moe.experts."},
      {{"experts of every second block, ZeRO 3", 1, 1, 2, 2, 1, ContextMethod::kRing, 4,
        RouterKind::kTopK, 3, false, 2},
       {.sum_experts_over_all = true},
       {"block 1", "block 3"},
       ".moe.experts."},
      // The balance of a part is not that of the sequence: no loss is wrong, only gradients are.
      {{"statistics of a sequence", 1, 1, 1, 2, 2, ContextMethod::kRing, 4},
       {.drop_statistics_sum = true},
       below_the_head,
       "of blocks."},
      {{"zigzag", 2, 1, 1, 1, 2}, {.break_zigzag = true}, all, "the gradient of "},
      {{"zigzag, gathered", 1, 2, 1, 2, 2, ContextMethod::kAllGather, 4, RouterKind::kTopK, 1,
        true},
       {.break_zigzag = true},
       all,
       "the gradient of "},
      {{"experts, deep in a grid", 1, 2, 1, 2, 2, ContextMethod::kUlysses, 4, RouterKind::kTopK},
       {.sum_experts_over_all = true},
       blocks,
       ".moe.experts."},
  };
}

TEST(VerifyAxesControl, a_dropped_sum_is_found_and_its_layer_named) {
  int cases = 0;
  for (const auto& control : controls()) {
    const auto& on = control.on;
    if (on.ranks() != world().size()) continue;
    ++cases;
    const auto outcome = verify(on.deck(), {.sabotage = control.sabotage});
    EXPECT_EQ(outcome.code, ExitCode::kNumerical) << on.name;
    EXPECT_EQ(outcome.ranks, world().size()) << on.name;
    EXPECT_TRUE(has(outcome.error, control.named)) << on.name << ": " << outcome.error;
    if (world().rank() == 0) {
      EXPECT_EQ(layers_over(outcome.text), control.over) << on.name << "\n" << outcome.text;
    }
  }
  EXPECT_EQ(cases > 0, world().size() > 1);
}

}  // namespace
}  // namespace pg::testing
