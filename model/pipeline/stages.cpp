#include "model/pipeline/stages.h"

#include <algorithm>

#include "comm/error.h"
#include "model/flops.h"

namespace pg::model {

std::vector<StagePart> split_layers(std::int64_t layers, int virtual_stages,
                                    const LayerCosts& costs) {
  PG_ASSERT(virtual_stages >= 1 && layers >= virtual_stages, "{} layers in {} virtual stages",
            layers, virtual_stages);
  PG_ASSERT(costs.block >= 0.0 && costs.embed >= 0.0 && costs.head >= 0.0,
            "costs of block {}, embeddings {}, head {}", costs.block, costs.embed, costs.head);
  std::vector<StagePart> parts(static_cast<std::size_t>(virtual_stages));
  parts.front().embeds = true;
  parts.back().head = true;
  for (auto& part : parts) part.layers = 1;

  const auto cost = [&](const StagePart& part) {
    return static_cast<double>(part.layers) * costs.block + (part.embeds ? costs.embed : 0.0) +
           (part.head ? costs.head : 0.0);
  };
  // Blocks are alike, so only the counts matter, and each next block goes to the cheapest part. For
  // a sum of one convex function of the parts' costs c the step's price f(c + block) - f(c) only
  // grows with c, so this greedy choice is exact (Gross 1956; Ibaraki and Katoh 1988, ch. 4): for
  // the squares, and for all powers and so for the maximum.
  for (std::int64_t left = layers - virtual_stages; left > 0; --left) {
    auto* cheapest = &parts.back();
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      if (cost(*part) < cost(*cheapest)) cheapest = &*part;
    }
    ++cheapest->layers;
  }
  std::int64_t first = 0;
  for (auto& part : parts) {
    part.first_layer = first;
    first += part.layers;
  }
  return parts;
}

LayerCosts layer_costs(const ModelConfig& config, std::int64_t seq) {
  // The difference of one more layer, so that the counts themselves stay in one place.
  auto model = config;
  model.layers = 1;
  const double one = model_flops_per_token(model, seq);
  model.layers = 2;
  const double two = model_flops_per_token(model, seq);

  LayerCosts costs;
  costs.block = two - one;
  costs.head = one - costs.block;
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
