// Which layers each virtual stage of a pipeline holds: contiguous parts in order, the first with
// the embeddings and the last with the final norm and the head, so cut that the slowest part, which
// sets the pace of all, is as fast as whole blocks allow.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace pg::model {

struct StagePart {
  std::int64_t first_layer = 0;
  std::int64_t layers = 0;
  bool embeds = false;  // token and position tables
  bool head = false;    // final norm, language-model head, loss
  bool operator==(const StagePart&) const = default;
};

// Relative times of one micro-batch, forward and backward together, in one unit of any size.
struct LayerCosts {
  double block = 1.0;
  double embed = 0.0;
  double head = 0.0;
};

// The work of a part in the units of `costs`.
double part_cost(const StagePart& part, const LayerCosts& costs);

// [stages * chunks] virtual stages in order (virtual stage v is chunk v / stages of stage v %
// stages), each with at least one block. Of all ways the one whose busiest stage, over its chunks,
// has the least work: it sets the pace of many micro-batches. Of these the most even, by the sum of
// the squares of the stages' work, and then the most even chunks in each stage. Where costs are the
// same the last stages fill up first: of 1F1B's stages they hold the fewest micro-batches, and so
// have the most memory left. PG_ASSERTs layers >= stages * chunks >= 1 and costs that are not
// negative.
std::vector<StagePart> split_layers(std::int64_t layers, int stages, int chunks,
                                    const LayerCosts& costs);

// FLOP per token of one step, forward and backward, at sequence length `seq`, by the counts of
// model_flops_per_token (model/flops.h): a block's products and attention (the mean
// where only some have experts), the head's product. The embeddings do no products: their bytes are
// counted at a fixed rate of FLOP per byte.
LayerCosts layer_costs(const ModelConfig& config, std::int64_t seq);

}  // namespace pg::model
