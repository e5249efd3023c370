// The table's rows of [model] and [moe]: what a model is.
#include "app/schema_row.h"

namespace pg::app {

using model::ModelConfig;

std::vector<Row> model_rows() {
  const auto model = &Deck::model;
  using M = ModelConfig;
  using model::Activation;
  using model::NormKind;
  using model::PositionKind;
  return {
      {.name = "model.layers",
       .field = at(model, &M::layers),
       .needed_by = kTraining,
       .range = between(1, 1 << 14),
       .doc = "Transformer blocks."},
      {.name = "model.hidden",
       .field = at(model, &M::hidden),
       .needed_by = kTraining,
       .range = between(1, 1 << 18),
       .doc = "Width of the residual stream."},
      {.name = "model.heads",
       .field = at(model, &M::heads),
       .needed_by = kTraining,
       .range = between(1, 1 << 12),
       .doc = "Query heads."},
      {.name = "model.kv_heads",
       .field = at(model, &M::kv_heads),
       .fallback_text = "heads",
       .range = between(1, 1 << 12),
       .doc =
           "Key and value heads; a divisor of heads. 1: multi-query, fewer than heads: grouped."},
      {.name = "model.head_dim",
       .field = at(model, &M::head_dim),
       .fallback_text = "hidden / heads",
       .range = between(1, 1 << 10),
       .doc = "Width of one head; even with rope."},
      {.name = "model.ffn",
       .field = at(model, &M::ffn),
       .fallback_text = "4 or 8/3 of hidden",
       .range = between(1, 1 << 22),
       .doc = "Width of the feed-forward layer of dense blocks. Default: 4 hidden for gelu; for "
              "swiglu 8/3 hidden, rounded up to a multiple of 64."},
      {.name = "model.vocab",
       .field = at(model, &M::vocab),
       .needed_by = kTraining | kPreparing,
       .range = between(2, 1 << 24),
       .unit = "tokens",
       .doc = "Rows of the embedding; may exceed the tokenizer's size. `prepare` makes a tokenizer "
              "of this size."},
      {.name = "model.max_seq",
       .field = at(model, &M::max_seq),
       .fallback_text = "train.seq",
       .range = between(1, 1 << 20),
       .unit = "tokens",
       .doc = "Longest sequence: rows of learned positions."},
      {.name = "model.norm",
       .field = at(model, &M::norm, {"rmsnorm", "layernorm"},
                   {NormKind::kRmsNorm, NormKind::kLayerNorm}),
       .fallback = "rmsnorm",
       .doc = "Normalisation before each branch and before the head."},
      {.name = "model.norm_eps",
       .field = at(model, &M::norm_eps),
       .fallback = 1e-5,
       .range = {.low = 0, .high = 1, .low_open = true, .high_open = true},
       .doc = "Added to the variance (mean square) under the root."},
      {.name = "model.activation",
       .field =
           at(model, &M::activation, {"swiglu", "gelu"}, {Activation::kSwiGlu, Activation::kGelu}),
       .fallback = "swiglu",
       .doc = "Feed-forward layer; gelu in its tanh form."},
      {.name = "model.position",
       .field = at(model, &M::position, {"rope", "learned"},
                   {PositionKind::kRope, PositionKind::kLearned}),
       .fallback = "rope",
       .doc = "Rotary or learned absolute positions."},
      {.name = "model.rope_theta",
       .field = at(model, &M::rope_theta),
       .fallback = 10000.0,
       .range = above(0),
       .doc = "Base of the rotary frequencies."},
      {.name = "model.bias",
       .field = at(model, &M::bias),
       .fallback = false,
       .doc = "Biases on every linear layer but the head, and on layernorm."},
      {.name = "model.tie_embeddings",
       .field = at(model, &M::tie_embeddings),
       .fallback = false,
       .doc = "The head shares the embedding's weights."},
      {.name = "model.dropout",
       .field = at(model, &M::dropout),
       .fallback = 0.0,
       .range = fraction(),
       .doc = "Probability, after the embedding, on attention weights and on both branches."},
      {.name = "model.window",
       .field = at(model, &M::window),
       .fallback = 0,
       .range = between(0, 1 << 20),
       .unit = "tokens",
       .doc = "Sliding attention window. 0: all earlier tokens."},
  };
}

std::vector<Row> moe_rows() {
  const auto model = &Deck::model;
  const auto moe = &ModelConfig::moe;
  using M = model::MoeConfig;
  using model::RouterKind;
  return {
      {.name = "moe.experts",
       .field = at(model, moe, &M::experts),
       .fallback = 0,
       .range = between(0, 1 << 12),
       .doc = "Experts that take the place of a block's feed-forward layer. 0: a dense model; the "
              "other keys then keep their defaults."},
      {.name = "moe.top_k",
       .field = at(model, moe, &M::top_k),
       .fallback = 2,
       .fallback_text = "2; 1 for switch",
       .range = between(1, 1 << 12),
       .doc = "Experts of a token, at most moe.experts; with expert_choice on average."},
      {.name = "moe.ffn",
       .field = at(model, moe, &M::ffn),
       .fallback_text = "model.ffn",
       .range = between(1, 1 << 22),
       .doc = "Width of one expert."},
      {.name = "moe.router",
       .field = at(model, moe, &M::router, {"top_k", "switch", "expert_choice"},
                   {RouterKind::kTopK, RouterKind::kSwitch, RouterKind::kExpertChoice}),
       .fallback = "top_k",
       .doc = "top_k: each token takes its best experts. switch: its best one, weighted with that "
              "probability. expert_choice: each expert takes its top_k*seq/experts best tokens of "
              "a sequence; for training only, as it looks at later tokens."},
      {.name = "moe.renormalize",
       .field = at(model, moe, &M::renormalize),
       .fallback = true,
       .fallback_text = "true, for top_k",
       .doc =
           "top_k only. true: a token's weights add up to 1, the softmax over its chosen experts "
           "(Mixtral); with top_k = 1 that is always 1, and only the losses below teach the "
           "router. "
           "false: probabilities among all experts (OLMoE, Qwen)."},
      {.name = "moe.capacity_factor",
       .field = at(model, moe, &M::capacity_factor),
       .fallback = 0.0,
       .range = between(0, 1 << 12),
       .doc =
           "An expert takes at most ceil(capacity_factor*top_k*seq/experts) tokens of a sequence, "
           "the first ones; the others go without it, past the block if it was their only one. "
           "Often "
           "1.25. 0: all of them (dropless)."},
      {.name = "moe.shared_experts",
       .field = at(model, moe, &M::shared_experts),
       .fallback = 0,
       .range = between(0, 1 << 10),
       .doc = "Experts that every token goes through besides its own, as one layer of so many "
              "times moe.ffn."},
      {.name = "moe.every",
       .field = at(model, moe, &M::every),
       .fallback = 1,
       .range = between(1, 1 << 14),
       .doc = "Only the last of every so many blocks has experts; the others are dense, of width "
              "model.ffn."},
      {.name = "moe.aux_loss",
       .field = at(model, moe, &M::aux_loss),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Factor of the load-balance loss; often 0.01. Not for expert_choice."},
      {.name = "moe.z_loss",
       .field = at(model, moe, &M::z_loss),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Factor of the loss that keeps the router's logits small; often 0.001."},
      {.name = "moe.bias_update",
       .field = at(model, moe, &M::bias_update),
       .fallback = 0.0,
       .range = between(0, 1),
       .doc = "Balance without a loss: after each step, experts that were asked for less than the "
              "mean gain so much in the choice, the others lose it; weights do not change. Often "
              "0.001. 0: off. Not for expert_choice."},
  };
}

}  // namespace pg::app
