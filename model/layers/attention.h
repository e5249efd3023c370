// Causal self-attention with grouped key/value heads (Ainslie et al. 2023) and rotary or no
// positions.
#pragma once

#include <string>

#include "model/layers/linear.h"

namespace pg::model {

class Attention {
 public:
  Attention(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix);

  // H and K are this tp rank's heads.
  struct Saved {
    TensorView qkv;  // [N, (H + 2K) D], q and k after rotation
    TensorView o;    // [N, H D]; empty: to be made again, with lse
    TensorView lse;  // [B, H, T]
  };

  // y[rows,C] from x[rows,C].
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // dx[rows,C] from dy[rows,C].
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved) const;

 private:
  // The heads inside a packed [N, (H + 2K) D]: q[B,T,H,D], k and v[B,T,K,D].
  struct Heads {
    TensorView q, k, v;
  };
  Heads heads(const LayerContext& ctx, TensorView packed) const;
  void rotate(const LayerContext& ctx, TensorView packed, bool inverse) const;
  AttentionShape shape(const ModelConfig& config) const;
  // Pushes and fills o and lse.
  void attend(const LayerContext& ctx, Arena& arena, Saved& saved) const;

  std::string site_;
  ColumnLinear qkv_;
  RowLinear out_;
};

}  // namespace pg::model
