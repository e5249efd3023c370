#include "model/pipeline/stages.h"

#include <algorithm>

#include "comm/error.h"
#include "model/flops.h"

namespace pg::model {

double part_cost(const StagePart& part, const LayerCosts& costs) {
  return static_cast<double>(part.layers) * costs.block + (part.embeds ? costs.embed : 0.0) +
         (part.head ? costs.head : 0.0);
}

std::vector<StagePart> split_layers(std::int64_t layers, int stages, int chunks,
                                    const LayerCosts& costs) {
  PG_ASSERT(stages >= 1 && chunks >= 1 && layers >= std::int64_t{stages} * chunks,
            "{} layers in {} stages of {} chunks", layers, stages, chunks);
  PG_ASSERT(costs.block >= 0.0 && costs.embed >= 0.0 && costs.head >= 0.0,
            "costs of block {}, embeddings {}, head {}", costs.block, costs.embed, costs.head);
  const auto n = static_cast<std::size_t>(stages) * static_cast<std::size_t>(chunks);
  std::vector<StagePart> parts(n);
  parts.front().embeds = true;
  parts.back().head = true;
  for (auto& part : parts) part.layers = 1;

  std::vector<double> work(static_cast<std::size_t>(stages));  // of a stage, over its chunks
  const auto stage_of = [&](std::size_t v) { return v % static_cast<std::size_t>(stages); };
  for (std::size_t v = 0; v < n; ++v) work[stage_of(v)] += part_cost(parts[v], costs);

  // Blocks are alike, so only the counts matter, and each next block goes to the cheapest stage,
  // there to the cheapest chunk. For a sum of one convex function of the costs c the step's price
  // f(c + block) - f(c) only grows with c, so this greedy choice is exact (Gross 1956; Ibaraki and
  // Katoh 1988, ch. 4): for the squares, and for all powers and so for the maximum. A stage's
  // chunks share out what it has in the same way.
  for (auto left = layers - static_cast<std::int64_t>(n); left > 0; --left) {
    auto stage = work.size() - 1;
    for (auto s = work.size(); s-- > 0;) {
      if (work[s] < work[stage]) stage = s;
    }
    auto chunk = n - work.size() + stage;
    for (auto v = n; v-- > 0;) {
      if (stage_of(v) == stage && part_cost(parts[v], costs) < part_cost(parts[chunk], costs)) {
        chunk = v;
      }
    }
    ++parts[chunk].layers;
    work[stage] += costs.block;
  }
  std::int64_t first = 0;
  for (auto& part : parts) {
    part.first_layer = first;
    first += part.layers;
  }
  return parts;
}

LayerCosts layer_costs(const ModelConfig& config, std::int64_t seq) {
  // The difference of more layers, so that the counts themselves stay in one place: where every
  // n-th block has experts, of n more.
  auto model = config;
  if (config.layers < config.moe.every) model.moe.experts = 0;
  const auto period = model.moe.experts > 0 ? model.moe.every : 1;
  model.layers = period;
  const double one = model_flops_per_token(model, seq);
  model.layers = 2 * period;
  const double two = model_flops_per_token(model, seq);

  LayerCosts costs;
  costs.block = (two - one) / static_cast<double>(period);
  costs.head = one - (two - one);
  // In bf16 a lookup reads and writes 2 bytes an element; its backward reads 2, and reads and
  // writes an fp32 gradient: 14 bytes, about 16 with the indices. 16 FLOP a byte is near the
  // balance of CPUs; a GPU's is higher, but there hidden is so large that the embeddings hardly
  // count.
  constexpr double kBytes = 16.0;
  constexpr double kFlopPerByte = 16.0;
  const double tables = config.position == PositionKind::kLearned ? 2.0 : 1.0;
  costs.embed = tables * kBytes * kFlopPerByte * static_cast<double>(config.hidden);
  return costs;
}

}  // namespace pg::model
