// The feed-forward layer: SwiGLU (Shazeer 2020) or GELU.
#pragma once

#include <string>

#include "model/layers/linear.h"

namespace pg::model {

class Mlp {
 public:
  Mlp(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix);

  struct Saved {
    TensorView wide;    // [N, 2F] gate and up for SwiGLU, [N, F] for GELU
    TensorView hidden;  // [N, F] after the activation; empty: to be made again
  };

  // y[rows,C] from x[rows,C]. F is this tp rank's share.
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // What forward would save, without y: enough for backward.
  Saved remake(const LayerContext& ctx, TensorView x) const;
  // dx[rows,C] from dy[rows,C].
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved) const;

 private:
  void activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const;
  bool gated_;
  ColumnLinear wide_;
  RowLinear down_;
};

}  // namespace pg::model
