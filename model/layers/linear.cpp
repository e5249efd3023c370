#include "model/layers/linear.h"

namespace pg::model {

Linear::Linear(const ParamTable& table, const std::string& first, const std::string& last,
               bool bias)
    : weight_{table.id(first + ".weight"), table.id(last + ".weight")} {
  in_ = table[weight_.first].shape[1];
  for (std::size_t id = weight_.first; id <= weight_.last; ++id) out_ += table[id].shape[0];
  if (bias) bias_ = Pack{table.id(first + ".bias"), table.id(last + ".bias")};
}

void Linear::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const auto& p = ctx.params;
  ctx.kernels.linear_forward(y, x, p.weight_pack(weight_.first, weight_.last),
                             bias_ ? p.weight_pack(bias_->first, bias_->last) : TensorView());
}

void Linear::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x) const {
  const auto& p = ctx.params;
  ctx.kernels.linear_backward_weight(p.grad_pack(weight_.first, weight_.last),
                                     bias_ ? p.grad_pack(bias_->first, bias_->last) : TensorView(),
                                     dy, x);
  if (!dx.empty()) {
    ctx.kernels.linear_backward_input(dx, dy, p.weight_pack(weight_.first, weight_.last),
                                      /*accumulate=*/false);
  }
}

}  // namespace pg::model
