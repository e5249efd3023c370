// Causal self-attention with grouped key/value heads (Ainslie et al. 2023) and rotary or no
// positions.
#pragma once

#include <string>

#include "model/layers/linear.h"

namespace pg::model {

class Attention {
 public:
  Attention(const ModelConfig& config, const ParamTable& table, const std::string& prefix);

  struct Saved {
    TensorView qkv;  // [N, (H + 2K) D], q and k after rotation
    TensorView o;    // [N, H D]
    TensorView lse;  // [B, H, T]
  };

  // y[N,C] from x[N,C].
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // dx[N,C] from dy[N,C].
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

  std::string site_;
  Linear qkv_, out_;
};

}  // namespace pg::model
