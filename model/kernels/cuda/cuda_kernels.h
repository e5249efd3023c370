// The CUDA backend: matrix products by cuBLASLt, attention by cuDNN or our own kernel, the rest our
// own fused kernels. Each .cu file of this folder defines the members of one family of operations,
// under the name of the CPU's file; this header only declares them.
//
// Everything is issued on the GPU's compute stream. Determinism: work is cut into pieces by sizes
// alone, partial sums meet in a fixed order, no floating-point atomics.
#pragma once

#include <memory>

#include "comm/gpu.h"
#include "model/kernels/cuda/workspace.h"
#include "model/kernels/kernels.h"

namespace pg::model {

namespace cuda {
class CudaMatmul;     // matmul.h: cuBLASLt and its kept choices
class CudaAttention;  // attention.h: cuDNN's graphs, where it takes the shape
}  // namespace cuda

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(comm::Gpu& gpu);
  ~CudaKernels() override;

  Device device() const override { return Device::kCuda; }

  std::string choices_text() const override;
  std::string set_choices(std::string_view text) override;
  std::string attention_choice(const AttentionUse& use) override;

  void fill_zero(TensorView x) override;
  void copy(TensorView to, TensorView from) override;
  void add(TensorView inout, TensorView x) override;

  void linear_forward(TensorView y, TensorView x, TensorView w, TensorView bias) override;
  void linear_backward_input(TensorView dx, TensorView dy, TensorView w, bool accumulate) override;
  void linear_gelu_forward(TensorView y, TensorView h, TensorView x, TensorView w,
                           TensorView bias) override;
  void linear_gelu_backward_input(TensorView dh, TensorView dy, TensorView w,
                                  TensorView h) override;
  void linear_backward_weight(TensorView dw, TensorView dbias, TensorView dy,
                              TensorView x) override;
  void weights_changed() override {}  // no copies are cached
  void weights_changed(TensorView /*range*/) override {}

  void norm_forward(NormKind kind, TensorView y, TensorView r, TensorView stats,
                    TensorView residual, TensorView x, TensorView gamma, TensorView beta,
                    double eps) override;
  void norm_backward(NormKind kind, TensorView dr, TensorView dgamma, TensorView dbeta,
                     TensorView dy, TensorView r, TensorView stats, TensorView gamma) override;

  void rope(TensorView x, TensorView positions, double theta, bool inverse) override;
  void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                         const AttentionShape& shape, const Dropout& dropout) override;
  void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o, TensorView q,
                          TensorView k, TensorView v, TensorView o, TensorView lse,
                          const AttentionShape& shape, const Dropout& dropout,
                          bool accumulate) override;
  void attention_merge(TensorView o, TensorView lse, TensorView other_o,
                       TensorView other_lse) override;

  void moe_logits(TensorView logits, TensorView x, TensorView w) override;
  void moe_logits_backward(TensorView dx, TensorView dw, TensorView dlogits, TensorView x,
                           TensorView w) override;
  void moe_softmax(TensorView probs, TensorView lse, TensorView logits) override;
  void moe_softmax_backward(TensorView dlogits, TensorView dprobs, TensorView probs, TensorView lse,
                            double z_scale) override;
  void moe_gates(TensorView gates, TensorView probs, TensorView chosen, TensorView kept,
                 bool renormalize) override;
  void moe_gates_backward(TensorView dprobs, TensorView dgates, TensorView probs, TensorView chosen,
                          TensorView kept, bool renormalize) override;
  void moe_balance_loss(TensorView losses, TensorView stats, double factor) override;
  void moe_balance_backward(TensorView dprobs, TensorView counts, double factor) override;
  void moe_statistics(TensorView stats, TensorView chosen, TensorView probs,
                      TensorView lse) override;
  void moe_choose_experts(TensorView chosen, TensorView probs, TensorView bias,
                          std::int64_t k) override;
  void moe_choose_tokens(TensorView chosen, TensorView scores, std::int64_t count) override;
  void moe_count(TensorView counts, TensorView mask) override;
  void moe_drop(TensorView mask, TensorView before, std::int64_t capacity) override;
  void moe_rows(TensorView rows, std::span<std::int64_t> counts, TensorView kept) override;
  void moe_dispatch(TensorView to, TensorView x, TensorView rows, TensorView gates) override;
  void moe_combine(TensorView y, TensorView from, TensorView rows, TensorView gates,
                   bool accumulate) override;
  void moe_gate_gradient(TensorView dgates, TensorView dy, TensorView from,
                         TensorView rows) override;
  void grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                              std::span<const TensorView> bias,
                              std::span<const std::int64_t> begin) override;
  void grouped_linear_backward_input(TensorView dx, TensorView dy, std::span<const TensorView> w,
                                     std::span<const std::int64_t> begin) override;
  void grouped_linear_backward_weight(std::span<const TensorView> dw,
                                      std::span<const TensorView> dbias, TensorView dy,
                                      TensorView x, std::span<const std::int64_t> begin) override;

  void swiglu_forward(TensorView y, TensorView gate, TensorView up) override;
  void swiglu_backward(TensorView dgate, TensorView dup, TensorView dy, TensorView gate,
                       TensorView up) override;
  void gelu_forward(TensorView y, TensorView x) override;
  void gelu_backward(TensorView dx, TensorView dy, TensorView x) override;

  void dropout(TensorView x, const Dropout& dropout) override;

  void embedding_forward(TensorView x, TensorView tokens, TensorView positions,
                         TensorView token_table, TensorView position_table,
                         std::int64_t first_id) override;
  void embedding_backward(TensorView d_token_table, TensorView d_position_table, TensorView dx,
                          TensorView tokens, TensorView positions, std::int64_t first_id) override;

  void cross_entropy(TensorView losses, TensorView dlogits, TensorView logits, TensorView targets,
                     double scale) override;
  void cross_entropy_stats(TensorView stats, TensorView logits, TensorView targets,
                           std::int64_t first_id) override;
  void cross_entropy_combine(TensorView losses, TensorView merged, TensorView all_stats,
                             TensorView targets) override;
  void cross_entropy_gradient(TensorView dlogits, TensorView logits, TensorView merged,
                              TensorView targets, std::int64_t first_id, double scale) override;

  void sum_rows(TensorView sums, TensorView x) override;
  void sum(TensorView total, TensorView x) override;
  void sum_of_squares(TensorView total, std::span<const TensorView> parts) override;
  void adamw(std::span<const AdamWTensors> tensors, const AdamWStep& step) override;

 private:
  comm::Gpu& gpu_;
  comm::GpuStream stream_;
  cuda::Workspace workspace_;
  std::unique_ptr<cuda::CudaMatmul> matmul_;
  std::unique_ptr<cuda::CudaAttention> attention_;
};

}  // namespace pg::model
