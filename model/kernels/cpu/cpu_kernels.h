// The CPU backend: OpenMP over rows, SIMD inside them, matrix products from oneDNN. Each file of
// this folder defines the members of one family of operations; this header only declares them.
//
// Determinism: work is cut into pieces whose number depends on sizes, never on threads, and partial
// sums meet in a fixed order.
#pragma once

#include <memory>

#include "model/kernels/kernels.h"

namespace pg::model {

class MatmulEngine;  // matmul.h: oneDNN for fp32 and bf16, plain loops for fp64

class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(int threads);
  ~CpuKernels() override;

  Device device() const override { return Device::kCpu; }

  void fill_zero(TensorView x) override;               // memory.cpp
  void copy(TensorView to, TensorView from) override;  // memory.cpp
  void add(TensorView inout, TensorView x) override;   // memory.cpp

  void linear_forward(TensorView y, TensorView x, TensorView w, TensorView bias) override;
  void linear_backward_input(TensorView dx, TensorView dy, TensorView w, bool accumulate) override;
  void linear_backward_weight(TensorView dw, TensorView dbias, TensorView dy,
                              TensorView x) override;  // linear.cpp
  void weights_changed() override;
  void weights_changed(TensorView range) override;

  void norm_forward(NormKind kind, TensorView y, TensorView r, TensorView stats,
                    TensorView residual, TensorView x, TensorView gamma, TensorView beta,
                    double eps) override;  // norm.cpp
  void norm_backward(NormKind kind, TensorView dr, TensorView dgamma, TensorView dbeta,
                     TensorView dy, TensorView r, TensorView stats, TensorView gamma) override;

  void rope(TensorView x, TensorView positions, double theta, bool inverse) override;  // rope.cpp
  void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                         const AttentionShape& shape, const Dropout& dropout) override;
  void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o, TensorView q,
                          TensorView k, TensorView v, TensorView o, TensorView lse,
                          const AttentionShape& shape, const Dropout& dropout,
                          bool accumulate) override;
  void attention_merge(TensorView o, TensorView lse, TensorView other_o,
                       TensorView other_lse) override;

  void moe_logits(TensorView logits, TensorView x, TensorView w) override;  // moe_router.cpp
  void moe_logits_backward(TensorView dx, TensorView dw, TensorView dlogits, TensorView x,
                           TensorView w) override;
  void moe_softmax(TensorView probs, TensorView lse, TensorView logits) override;
  void moe_softmax_backward(TensorView dlogits, TensorView dprobs, TensorView probs, TensorView lse,
                            double z_scale) override;
  void moe_gates(TensorView gates, TensorView probs, TensorView chosen, TensorView kept,
                 bool renormalize) override;
  void moe_gates_backward(TensorView dprobs, TensorView dgates, TensorView probs, TensorView chosen,
                          TensorView kept, bool renormalize) override;
  void moe_balance_loss(TensorView losses, TensorView stats,
                        double factor) override;  // moe_balance.cpp
  void moe_balance_backward(TensorView dprobs, TensorView counts, double factor) override;
  void moe_statistics(TensorView stats, TensorView chosen, TensorView probs,
                      TensorView lse) override;
  void moe_choose_experts(TensorView chosen, TensorView probs, TensorView bias,
                          std::int64_t k) override;  // moe_choice.cpp
  void moe_choose_tokens(TensorView chosen, TensorView scores, std::int64_t count) override;
  void moe_count(TensorView counts, TensorView mask) override;
  void moe_drop(TensorView mask, TensorView before, std::int64_t capacity) override;
  void moe_rows(TensorView rows, std::span<std::int64_t> counts,
                TensorView kept) override;  // moe_tokens.cpp
  void moe_dispatch(TensorView to, TensorView x, TensorView rows, TensorView gates) override;
  void moe_combine(TensorView y, TensorView from, TensorView rows, TensorView gates,
                   bool accumulate) override;
  void moe_gate_gradient(TensorView dgates, TensorView dy, TensorView from,
                         TensorView rows) override;
  void grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                              std::span<const TensorView> bias,
                              std::span<const std::int64_t> begin) override;  // grouped_linear.cpp
  void grouped_linear_backward_input(TensorView dx, TensorView dy, std::span<const TensorView> w,
                                     std::span<const std::int64_t> begin) override;
  void grouped_linear_backward_weight(std::span<const TensorView> dw,
                                      std::span<const TensorView> dbias, TensorView dy,
                                      TensorView x, std::span<const std::int64_t> begin) override;

  void swiglu_forward(TensorView y, TensorView gate, TensorView up) override;  // activation.cpp
  void swiglu_backward(TensorView dgate, TensorView dup, TensorView dy, TensorView gate,
                       TensorView up) override;
  void gelu_forward(TensorView y, TensorView x) override;
  void gelu_backward(TensorView dx, TensorView dy, TensorView x) override;

  void dropout(TensorView x, const Dropout& dropout) override;  // dropout.cpp

  void embedding_forward(TensorView x, TensorView tokens, TensorView positions,
                         TensorView token_table, TensorView position_table,
                         std::int64_t first_id) override;  // embedding.cpp
  void embedding_backward(TensorView d_token_table, TensorView d_position_table, TensorView dx,
                          TensorView tokens, TensorView positions, std::int64_t first_id) override;

  void cross_entropy(TensorView losses, TensorView dlogits, TensorView logits, TensorView targets,
                     double scale) override;  // cross_entropy.cpp
  void cross_entropy_stats(TensorView stats, TensorView logits, TensorView targets,
                           std::int64_t first_id) override;  // cross_entropy_parallel.cpp
  void cross_entropy_combine(TensorView losses, TensorView merged, TensorView all_stats,
                             TensorView targets) override;
  void cross_entropy_gradient(TensorView dlogits, TensorView logits, TensorView merged,
                              TensorView targets, std::int64_t first_id, double scale) override;

  void sum_rows(TensorView sums, TensorView x) override;  // reduce.cpp
  void sum(TensorView total, TensorView x) override;      // reduce.cpp
  void sum_of_squares(TensorView total, std::span<const TensorView> parts) override;
  void adamw(std::span<const AdamWTensors> tensors, const AdamWStep& step) override;  // adamw.cpp

 private:
  int threads_;
  std::unique_ptr<MatmulEngine> matmul_;
};

}  // namespace pg::model
