// The final norm, the product with the vocabulary and the cross-entropy. Logits exist for a chunk
// of tokens at a time, in fp32 (fp64 in fp64): for all tokens at once they would be the largest
// tensor of a small model. In training the chunk's backward follows at once, so that it is never
// made twice.
#pragma once

#include <cstddef>

#include "model/layers/norm.h"

namespace pg::model {

class LmHead {
 public:
  LmHead(const ModelConfig& config, const ParamTable& table);

  // Sum over counted tokens of the cross-entropy, in nats. In training, dr[N,C] is set to the
  // stream's gradient of loss_scale times that sum and the parameters' gradients are added; dr
  // empty: loss only.
  double loss(const LayerContext& ctx, TensorView dr, const Stream& stream,
              double loss_scale) const;
  // logits[N,V] in the accumulator type.
  void logits(const LayerContext& ctx, TensorView logits, const Stream& stream) const;

 private:
  Norm norm_;
  std::size_t table_;  // [V,C]: the head, or the tied token embedding
};

}  // namespace pg::model
