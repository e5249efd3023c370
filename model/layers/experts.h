// The experts of a block that this rank holds: one feed-forward layer each, as grouped products
// over rows that lie in order by expert. R rows in all, F an expert's width on this tp rank.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "model/layers/context.h"

namespace pg::model {

class Experts {
 public:
  // "prefix.E.gate", ".up" and ".down" of this rank's experts E.
  Experts(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix);

  struct Saved {
    TensorView wide;    // [R, 2F] gate and up for SwiGLU, [R, F] for GELU
    TensorView hidden;  // [R, F] after the activation; empty: to be made again
  };

  // y[R,C], this tp rank's part of the sum, from x[R,C]. begin: first row of each expert, and R.
  // Without y: only what backward reads.
  Saved forward(const LayerContext& ctx, TensorView y, TensorView x,
                std::span<const std::int64_t> begin) const;
  // dx[R,C], this tp rank's part of the sum, from dy[R,C], and may take its place; adds the
  // weights' gradients.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                const Saved& saved, std::span<const std::int64_t> begin) const;

 private:
  // One product of all local experts: a pack of neighbouring parameters each.
  struct Product {
    struct Pack {
      std::size_t first, last;
    };
    std::vector<Pack> weights, biases;  // biases: none, or one an expert
    std::int64_t out = 0;
  };
  Product product(const ParamLayout& layout, const std::string& prefix, const char* first,
                  const char* last, bool bias) const;
  void activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const;

  bool gated_;
  std::int64_t ffn_;
  Product wide_, down_;
};

}  // namespace pg::model
