// The backend of dry runs: it accepts every operation and touches no element, so that the layers'
// own code can walk over views without storage and the arenas report their high-water marks. Tests
// derive from it to see which calls a layer makes.
#pragma once

#include "model/kernels/kernels.h"

namespace pg::model {

class DryKernels : public Kernels {
  using View = TensorView;
  using Views = std::span<const TensorView>;
  using Begins = std::span<const std::int64_t>;

 public:
  explicit DryKernels(Device device = Device::kCpu) : device_(device) {}
  // Where the step that is walked over would compute: some sizes depend on it.
  Device device() const override { return device_; }

  void fill_zero(View) override {}
  void copy(View, View) override {}
  void add(View, View) override {}

  void linear_forward(View, View, View, View) override {}
  void linear_backward_input(View, View, View, bool) override {}
  void linear_backward_weight(View, View, View, View) override {}
  void weights_changed() override {}
  void weights_changed(View) override {}

  void norm_forward(NormKind, View, View, View, View, View, View, View, double) override {}
  void norm_backward(NormKind, View, View, View, View, View, View, View) override {}

  void rope(View, View, double, bool) override {}
  void attention_forward(View, View, View, View, View, const AttentionShape&,
                         const Dropout&) override {}
  void attention_merge(View, View, View, View) override {}
  void attention_backward(View, View, View, View, View, View, View, View, View,
                          const AttentionShape&, const Dropout&, bool) override {}

  void moe_logits(View, View, View) override {}
  void moe_logits_backward(View, View, View, View, View) override {}
  void moe_softmax(View, View, View) override {}
  void moe_softmax_backward(View, View, View, View, double) override {}
  void moe_choose_experts(View, View, View, std::int64_t) override {}
  void moe_choose_tokens(View, View, std::int64_t) override {}
  void moe_count(View, View) override {}
  void moe_drop(View, View, std::int64_t) override {}
  void moe_statistics(View, View, View, View) override {}
  void moe_gates(View, View, View, View, bool) override {}
  void moe_gates_backward(View, View, View, View, View, bool) override {}
  void moe_balance_backward(View, View, double) override {}
  void moe_balance_loss(View, View, double) override {}
  void sum_rows(View, View) override {}
  void moe_rows(View, std::span<std::int64_t>, View) override {}
  void moe_dispatch(View, View, View, View) override {}
  void moe_combine(View, View, View, View, bool) override {}
  void moe_gate_gradient(View, View, View, View) override {}
  void grouped_linear_forward(View, View, Views, Views, Begins) override {}
  void grouped_linear_backward_input(View, View, Views, Begins) override {}
  void grouped_linear_backward_weight(Views, Views, View, View, Begins) override {}

  void swiglu_forward(View, View, View) override {}
  void swiglu_backward(View, View, View, View, View) override {}
  void gelu_forward(View, View) override {}
  void gelu_backward(View, View, View) override {}

  void dropout(View, const Dropout&) override {}

  void embedding_forward(View, View, View, View, View, std::int64_t) override {}
  void embedding_backward(View, View, View, View, View, std::int64_t) override {}

  void cross_entropy(View, View, View, View, double) override {}
  void cross_entropy_stats(View, View, View, std::int64_t) override {}
  void cross_entropy_combine(View, View, View, View) override {}
  void cross_entropy_gradient(View, View, View, View, std::int64_t, double) override {}

  void sum(View, View) override {}
  void sum_of_squares(View, Views) override {}
  void adamw(std::span<const AdamWTensors>, const AdamWStep&) override {}

 private:
  Device device_;
};

}  // namespace pg::model
