// The feed-forward layer: SwiGLU (Shazeer 2020) or GELU.
#pragma once

#include <string>

#include "model/layers/linear.h"

namespace pg::model {

class Mlp {
 public:
  Mlp(const ModelConfig& config, const ParamTable& table, const std::string& prefix);

  struct Saved {
    TensorView wide;    // [N, 2F] gate and up for SwiGLU, [N, F] for GELU
    TensorView hidden;  // [N, F] after the activation
  };

  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved) const;

 private:
  bool gated_;
  Linear wide_, down_;
};

}  // namespace pg::model
