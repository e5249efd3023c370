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

  // The same three without the moves of the stream, for a layer that makes them once for several:
  // all rows of x and dy; y[N,C] and dx[N,C] are this tp rank's part of the sum.
  Saved forward_part(const LayerContext& ctx, TensorView y, TensorView x) const;
  Saved remake_part(const LayerContext& ctx, TensorView x) const;
  void backward_part(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                     const Saved& saved) const;

 private:
  std::int64_t ffn() const { return down_.in(); }  // this tp rank's width
  void activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const;
  TensorView push_hidden(const LayerContext& ctx, Saved& saved) const;
  void widen(const LayerContext& ctx, const Saved& saved, TensorView hidden, TensorView x) const;
  void project(const LayerContext& ctx, TensorView y, TensorView hidden) const;
  void backward_hidden(const LayerContext& ctx, TensorView d_wide, TensorView dy,
                       const Saved& saved) const;
  bool gated_;
  Linear wide_, down_;
};

}  // namespace pg::model
