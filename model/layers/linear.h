// A linear layer over this rank's part of one parameter or of a pack of neighbours (q, k, v as one
// product).
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "model/layers/context.h"

namespace pg::model {

class Linear {
 public:
  // "prefix" + first ".weight" .. last ".weight", and the same with ".bias" when `bias`.
  Linear(const ParamLayout& layout, const std::string& first, const std::string& last, bool bias);

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }

  // y[n,out] = x[n,in] w^T + b; without b unless `with_bias`.
  void forward(const LayerContext& ctx, TensorView y, TensorView x, bool with_bias = true) const;
  // h[n,out] = x w^T + b and y = gelu(h) in one pass.
  void forward_gelu(const LayerContext& ctx, TensorView y, TensorView h, TensorView x) const;
  // Adds the weights' gradients, as from x = gelu(h); dh[n,in] = gradient through it of dy w.
  void backward_gelu(const LayerContext& ctx, TensorView dh, TensorView dy, TensorView x,
                     TensorView h) const;
  // Adds the weights' gradients; dx[n,in] = dy[n,out] w unless dx is empty.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x) const;

 private:
  struct Pack {
    std::size_t first, last;
  };
  Pack weight_{};
  std::optional<Pack> bias_;
  std::int64_t in_ = 0, out_ = 0;
};

// Cut by outputs: reads the whole stream, which is gathered for it.
class ColumnLinear : public Linear {
 public:
  using Linear::Linear;
  // y[N,out] from x[rows,in].
  void forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // dx[rows,in] from dy[N,out].
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x) const;
};

// Cut by inputs: leaves a partial sum of the stream. The bias is added once, by the first rank; its
// gradient comes from all rows on every rank, so it needs no sum over tp.
class RowLinear : public Linear {
 public:
  using Linear::Linear;
  // y[rows,out] from x[N,in].
  void forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // dx[N,in] from dy[rows,out].
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x) const;
};

}  // namespace pg::model
