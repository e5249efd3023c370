#include "model/pipeline/stages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "comm/error.h"

namespace pg::model {
namespace {

std::vector<std::int64_t> counts(const std::vector<StagePart>& parts) {
  std::vector<std::int64_t> n;
  for (const auto& part : parts) n.push_back(part.layers);
  return n;
}

struct Quality {
  double largest = 0.0;
  double squares = 0.0;
  auto operator<=>(const Quality&) const = default;  // the largest part first, then evenness
};

Quality quality(const std::vector<std::int64_t>& layers, const LayerCosts& costs) {
  Quality q;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    double cost = static_cast<double>(layers[i]) * costs.block;
    if (i == 0) cost += costs.embed;
    if (i + 1 == layers.size()) cost += costs.head;
    q.largest = std::max(q.largest, cost);
    q.squares += cost * cost;
  }
  return q;
}

// The best of all ways to give `layers` blocks to `stages` parts of one or more.
Quality best_quality(std::int64_t layers, int stages, const LayerCosts& costs) {
  std::vector<std::int64_t> split;
  Quality best{1e300, 1e300};
  const std::function<void(std::int64_t, int)> go = [&](std::int64_t left, int parts) {
    if (parts == 1) {
      split.push_back(left);
      best = std::min(best, quality(split, costs));
      split.pop_back();
      return;
    }
    for (std::int64_t n = 1; n <= left - (parts - 1); ++n) {
      split.push_back(n);
      go(left - n, parts - 1);
      split.pop_back();
    }
  };
  go(layers, stages);
  return best;
}

// Whole numbers, so that costs and squares are exact and compared exactly.
TEST(SplitLayers, no_other_split_is_better) {
  for (std::int64_t layers = 1; layers <= 11; ++layers) {
    for (int stages = 1; stages <= std::min<std::int64_t>(layers, 5); ++stages) {
      for (const double block : {1.0, 2.0, 3.0, 7.0}) {
        for (const double embed : {0.0, 1.0, 5.0}) {
          for (const double head : {0.0, 2.0, 6.0, 30.0}) {
            const LayerCosts costs{block, embed, head};
            const auto parts = split_layers(layers, stages, 1, costs);
            EXPECT_EQ(quality(counts(parts), costs), best_quality(layers, stages, costs))
                << layers << " layers, " << stages << " stages, costs " << block << " " << embed
                << " " << head;
          }
        }
      }
    }
  }
}

TEST(SplitLayers, parts_are_contiguous_and_the_ends_have_the_tables) {
  const auto parts = split_layers(10, 4, 1, {1.0, 0.1, 1.5});
  std::int64_t next = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(parts[i].first_layer, next);
    EXPECT_GE(parts[i].layers, 1);
    EXPECT_EQ(parts[i].embeds, i == 0);
    EXPECT_EQ(parts[i].head, i == 3);
    next += parts[i].layers;
  }
  EXPECT_EQ(next, 10);
  EXPECT_EQ(split_layers(3, 1, 1, {1.0, 1.0, 1.0}), (std::vector<StagePart>{{0, 3, true, true}}));
}

TEST(SplitLayers, equal_parts_fill_up_from_the_last) {
  const LayerCosts blocks{1.0, 0.0, 0.0};
  EXPECT_EQ(counts(split_layers(12, 4, 1, blocks)), (std::vector<std::int64_t>{3, 3, 3, 3}));
  EXPECT_EQ(counts(split_layers(10, 4, 1, blocks)), (std::vector<std::int64_t>{2, 2, 3, 3}));
  // A head as heavy as two blocks takes the place of two.
  EXPECT_EQ(counts(split_layers(10, 4, 1, {1.0, 0.0, 2.0})),
            (std::vector<std::int64_t>{3, 3, 3, 1}));
}

TEST(SplitLayers, more_stages_than_layers_are_a_bug) {
  EXPECT_THROW(split_layers(3, 4, 1, {}), Error);
  EXPECT_THROW(split_layers(3, 0, 1, {}), Error);
  EXPECT_THROW(split_layers(3, 2, 1, {-1.0, 0.0, 0.0}), Error);
}

// Two chunks a stage: no other way gives the busiest stage less work, and no stage could even its
// chunks out by moving a block.
TEST(SplitLayers, chunks_of_a_stage_count_together) {
  constexpr int kStages = 3, kChunks = 2;
  for (std::int64_t layers = 6; layers <= 14; ++layers) {
    for (const double head : {0.0, 2.0, 5.0, 30.0}) {
      const LayerCosts costs{2.0, 1.0, head};
      const auto parts = split_layers(layers, kStages, kChunks, costs);
      std::vector<std::int64_t> of_stage(kStages);
      std::int64_t next = 0;
      for (std::size_t v = 0; v < parts.size(); ++v) {
        EXPECT_EQ(parts[v].first_layer, next);
        next += parts[v].layers;
        of_stage[v % kStages] += parts[v].layers;
      }
      EXPECT_EQ(next, layers);
      // A stage with two chunks is one whose least part is two blocks.
      Quality best{1e300, 1e300};
      for (std::int64_t a = kChunks; a <= layers; ++a) {
        for (std::int64_t b = kChunks; layers - a - b >= kChunks; ++b) {
          best = std::min(best, quality({a, b, layers - a - b}, costs));
        }
      }
      EXPECT_EQ(quality(of_stage, costs), best) << layers << " layers, head " << head;
      for (int s = 0; s < kStages; ++s) {
        const double one = part_cost(parts[static_cast<std::size_t>(s)], costs);
        const double two = part_cost(parts[static_cast<std::size_t>(s + kStages)], costs);
        const auto more = parts[static_cast<std::size_t>(one > two ? s : s + kStages)].layers;
        EXPECT_TRUE(std::abs(one - two) <= costs.block || more == 1);
      }
    }
  }
}

ModelConfig llama_like() {
  ModelConfig c;
  c.layers = 6;
  c.hidden = 64;
  c.heads = 8;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.ffn = 96;
  c.vocab = 1000;
  c.max_seq = 32;
  return c;
}

// By hand from the shapes: 6 FLOP a weight, 12 * seen * q_width for attention, seen = (seq + 1)
// / 2.
TEST(LayerCosts, count_products_and_attention) {
  auto config = llama_like();
  const double weights = 64.0 * 64 + 2 * (16.0 * 64) + 64.0 * 64 + 3 * (96.0 * 64);
  const auto costs = layer_costs(config, 32);
  EXPECT_EQ(costs.block, 6 * weights + 12 * 16.5 * 64);
  EXPECT_EQ(costs.head, 6.0 * 1000 * 64);

  config.tie_embeddings = true;
  EXPECT_EQ(layer_costs(config, 32).head, costs.head);
  config.activation = Activation::kGelu;
  config.bias = true;
  EXPECT_EQ(layer_costs(config, 32).block, costs.block - 6 * (96.0 * 64));
  // A window of 4: 1 + 2 + 3 + 29 * 4 keys in 32 rows.
  config.window = 4;
  EXPECT_EQ(layer_costs(config, 32).block,
            costs.block - 6 * (96.0 * 64) + 12 * (122.0 / 32 - 16.5) * 64);
}

TEST(LayerCosts, embeddings_weigh_less_than_a_block) {
  auto config = llama_like();
  const auto rope = layer_costs(config, 32);
  EXPECT_GT(rope.embed, 0.0);
  EXPECT_LT(rope.embed, 0.1 * rope.block);
  config.position = PositionKind::kLearned;
  const auto learned = layer_costs(config, 32);
  EXPECT_EQ(learned.embed, 2 * rope.embed);
  EXPECT_EQ(learned.head, rope.head);
  EXPECT_EQ(learned.block, rope.block);
}

// A token meets top_k of the experts, the router and the shared ones.
TEST(LayerCosts, are_the_mean_of_dense_blocks_and_those_of_experts) {
  auto config = llama_like();
  const auto dense = layer_costs(config, 32);
  config.moe.experts = 8;
  config.moe.top_k = 2;
  config.moe.ffn = 1000;
  config.moe.shared_experts = 1;
  const double experts = dense.block + 6.0 * (8 * 64 + 3 * 3000.0 * 64 - 3 * 96.0 * 64);
  EXPECT_EQ(layer_costs(config, 32).block, experts);
  EXPECT_EQ(layer_costs(config, 32).head, dense.head);
  for (const std::int64_t every : {2, 4}) {
    config.moe.every = every;
    const auto n = static_cast<double>(every);
    EXPECT_EQ(layer_costs(config, 32).block, ((n - 1) * dense.block + experts) / n);
    EXPECT_EQ(layer_costs(config, 32).head, dense.head);
  }
}

}  // namespace
}  // namespace pg::model
