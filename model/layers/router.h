// Which experts each token goes to, with what weight, and the losses that keep the experts evenly
// loaded.
//
// All of it is defined for one whole sequence of T positions and E experts: f_e = tokens that chose
// e over top_k T, P_e = mean probability of e; load balance E sum_e f_e P_e (Fedus et al. 2021),
// z loss mean of lse(logits)^2 (Zoph et al. 2022). Under context parallelism counts and sums come
// from all parts before any product, and what is dropped goes by true positions. So neither the
// grid nor the micro-batch changes anything. Only the balance by bias (Wang et al. 2024,
// DeepSeek-V3) looks at the whole batch, after the step (model/optim/router_balance.h).
//
// Every tp rank routes all tokens of its stream: the same numbers everywhere, so that the weight's
// gradient needs no sum over tp.
#pragma once

#include <cstddef>
#include <string>

#include "model/layers/context.h"

namespace pg::model {

class Router {
 public:
  Router(const ModelConfig& config, const ParamLayout& layout, std::int64_t block);

  struct Saved {
    TensorView probs, lse;    // [N,E], [N], accumulator type
    TensorView chosen, kept;  // [N,E] uint8; the same one when nothing can be dropped
    TensorView gates;         // [N,E]
    TensorView stats;         // fp64 [B, 2E+1], of whole sequences (Kernels::moe_statistics)
  };

  // x[N,C]: all rows of the stream. Collective over cp.
  Saved forward(const LayerContext& ctx, TensorView x) const;
  // dx[N,C] += the gradient, on the first tp rank alone; dgates[N,E] is the whole one. Adds the
  // weight's gradient, and those of the auxiliary losses.
  void backward(const LayerContext& ctx, TensorView dx, TensorView dgates, TensorView x,
                const Saved& saved) const;

 private:
  void choose(const LayerContext& ctx, const Saved& saved) const;
  void choose_tokens(const LayerContext& ctx, TensorView chosen, TensorView probs) const;
  void drop(const LayerContext& ctx, TensorView kept) const;
  void count(const LayerContext& ctx, const Saved& saved) const;
  // E / (top_k T^2): times sum_e counts_e * (sum of probs)_e it is a sequence's balance loss.
  double balance_factor(const LayerContext& ctx) const;

  std::int64_t block_;
  MoeConfig moe_;
  std::size_t weight_;
};

}  // namespace pg::model
