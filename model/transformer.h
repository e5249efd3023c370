// The whole network on one rank: embedding, blocks, head; explicit forward and backward over a
// micro-batch.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/layers/block.h"
#include "model/layers/context.h"
#include "model/layers/lm_head.h"

namespace pg::model {

class Transformer {
 public:
  // Keeps references to `params` and `kernels`, which must outlive it. `seed` keys dropout.
  Transformer(const ModelConfig& config, ParamStore& params, Kernels& kernels, std::int64_t seed);

  const ModelConfig& config() const { return config_; }

  // Called when the gradients of one place (ParamSpec::place) are complete for this micro-batch.
  using PlaceDone = std::function<void(std::int64_t place)>;

  // Sum over counted tokens of the cross-entropy (nats), and the gradients of loss_scale times it
  // added to the store's. Everything pushed on the arena is released again.
  double forward_backward(Arena& arena, const MicroBatch& batch, double loss_scale,
                          const PlaceDone& place_done = {});
  // The same sum without dropout or gradients.
  double loss(Arena& arena, const MicroBatch& batch);
  // logits[N,V] in the accumulator type, without dropout.
  void logits(Arena& arena, const MicroBatch& batch, TensorView logits);

 private:
  LayerContext context(Arena& arena, const MicroBatch& batch, bool training) const;
  Stream forward(const LayerContext& ctx, std::vector<Block::Saved>& saved) const;

  ModelConfig config_;
  ParamStore& params_;
  Kernels& kernels_;
  std::int64_t seed_;
  std::size_t token_table_;
  std::optional<std::size_t> position_table_;
  std::vector<Block> blocks_;
  LmHead head_;
};

// Tables that are only looked up take part in no product; a tied token table does, as the head.
bool is_lookup_only(const ParamSpec& spec, const ModelConfig& config);

// Multiply-adds count two. Model FLOP of one token, forward and backward, without recomputation:
// six for each weight that takes part in a product, plus causal attention: of T positions a token
// sees (T+1)/2 on average (fewer with a window), at 4 * H * D forward and twice that backward, in
// each layer.
double model_flops_per_token(const ModelConfig& config, std::int64_t seq);

// High-water bytes of forward_backward for micro-batches of this size: a dry run of the same code.
std::size_t activation_bytes(const ModelConfig& config, DType compute, std::int64_t sequences,
                             std::int64_t seq);

}  // namespace pg::model
