// Causal self-attention with grouped key/value heads (Ainslie et al. 2023) and rotary or no
// positions, over sequences of which this rank may hold a part.
#pragma once

#include <string>

#include "model/layers/context_attention.h"
#include "model/layers/linear.h"

namespace pg::model {

class Attention {
 public:
  Attention(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix);

  using Saved = AttentionSaved;

  // y[rows,C] from x[rows,C]. Collective over tp and cp.
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // dx[rows,C] from dy[rows,C]. Collective likewise.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved) const;

 private:
  void rotate(const LayerContext& ctx, TensorView packed, bool inverse) const;

  std::string site_;  // of the probabilities' dropout
  ColumnLinear qkv_;
  RowLinear out_;
};

}  // namespace pg::model
