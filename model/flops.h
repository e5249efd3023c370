// How much arithmetic a model is: what speed is measured against.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/param_table.h"

namespace pg::model {

// Tables that are only looked up take part in no product; a tied token table does, as the head.
bool is_lookup_only(const ParamSpec& spec, const ModelConfig& config);

// Parameters that one token meets, embeddings included: of a block's experts top_k. All of them in
// a dense model.
std::int64_t active_parameters(const ModelConfig& config);

// Multiply-adds count two. Model FLOP of one token, forward and backward, without recomputation:
// six for each weight that takes part in a product (of the experts the top_k of a token), plus
// causal attention: of T positions a token sees (T+1)/2 on average (fewer with a window), at 4 * H
// * D forward and twice that backward, in each layer.
double model_flops_per_token(const ModelConfig& config, std::int64_t seq);

}  // namespace pg::model
