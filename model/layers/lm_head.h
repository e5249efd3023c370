// The final norm, the product with the vocabulary and the cross-entropy. Logits exist for a chunk
// of tokens at a time, in fp32 (fp64 in fp64): for all tokens at once they would be the largest
// tensor of a small model. In training the chunk's backward follows at once, so that it is never
// made twice.
//
// Under tensor parallelism each rank has the logits of its vocabulary rows; per token it passes on
// three numbers of them, from which every rank gets the same loss and its part of the gradient
// (Shoeybi et al. 2019).
#pragma once

#include <cstddef>
#include <cstdint>

#include "model/layers/norm.h"

namespace pg::model {

class LmHead {
 public:
  LmHead(const ModelConfig& config, const ParamLayout& layout);

  // Adds to ctx.loss the sum over counted tokens of the cross-entropy, in nats, the same on every
  // tp rank. In training, dr[rows,C] is set to the stream's gradient of loss_scale times that sum
  // and the parameters' gradients are added; dr empty: loss only.
  void loss(const LayerContext& ctx, TensorView dr, const Stream& stream, double loss_scale) const;
  // logits[N, this rank's vocabulary rows] in the accumulator type.
  void logits(const LayerContext& ctx, TensorView logits, const Stream& stream) const;

 private:
  void cross_entropy(const LayerContext& ctx, TensorView losses, TensorView dlogits,
                     TensorView logits, TensorView targets, double scale) const;

  Norm norm_;
  std::size_t table_;  // [V,C]: the head, or the tied token embedding
  VocabRows rows_;
};

}  // namespace pg::model
