// RMSNorm or LayerNorm over the residual stream, with the pending addition fused in.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "model/layers/context.h"

namespace pg::model {

class Norm {
 public:
  Norm(const ModelConfig& config, const ParamLayout& layout, const std::string& name);

  // What backward needs: the summed residual and its statistics.
  struct Saved {
    TensorView residual, stats;
  };

  // y[rows,C] = norm(stream.residual + stream.branch); keeps and returns the sum.
  Saved forward(const LayerContext& ctx, TensorView y, const Stream& stream) const;
  // The same y once more.
  void again(const LayerContext& ctx, TensorView y, const Saved& saved) const;
  // dr[rows,C] += the norm's gradient; the parameters' gradients are added.
  void backward(const LayerContext& ctx, TensorView dr, TensorView dy, const Saved& saved) const;

 private:
  std::size_t gamma_;
  std::optional<std::size_t> beta_;
};

}  // namespace pg::model
