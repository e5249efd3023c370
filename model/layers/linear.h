// A linear layer over one parameter or over a pack of neighbours (q, k, v as one product).
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "model/layers/context.h"

namespace pg::model {

class Linear {
 public:
  // "prefix" + first ".weight" .. last ".weight", and the same with ".bias" when `bias`.
  Linear(const ParamTable& table, const std::string& first, const std::string& last, bool bias);

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }

  // y[N,out] = x[N,in] w^T + b
  void forward(const LayerContext& ctx, TensorView y, TensorView x) const;
  // Adds the parameters' gradients; dx[N,in] = dy[N,out] w unless dx is empty.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x) const;

 private:
  struct Pack {
    std::size_t first, last;
  };
  Pack weight_{};
  std::optional<Pack> bias_;
  std::int64_t in_ = 0, out_ = 0;
};

}  // namespace pg::model
