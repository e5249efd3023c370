#include "model/layers/linear.h"

namespace pg::model {

Linear::Linear(const ParamLayout& layout, const std::string& first, const std::string& last,
               bool bias)
    : weight_{layout.table().id(first + ".weight"), layout.table().id(last + ".weight")} {
  in_ = layout.part(weight_.first).cols;
  for (std::size_t id = weight_.first; id <= weight_.last; ++id) out_ += layout.part(id).rows;
  if (bias) bias_ = Pack{layout.table().id(first + ".bias"), layout.table().id(last + ".bias")};
}

void Linear::forward(const LayerContext& ctx, TensorView y, TensorView x, bool with_bias) const {
  const auto& p = ctx.params;
  ctx.kernels.linear_forward(
      y, x, p.weight_pack(weight_.first, weight_.last),
      bias_ && with_bias ? p.weight_pack(bias_->first, bias_->last) : TensorView());
}

void Linear::forward_gelu(const LayerContext& ctx, TensorView y, TensorView h, TensorView x) const {
  const auto& p = ctx.params;
  ctx.kernels.linear_gelu_forward(y, h, x, p.weight_pack(weight_.first, weight_.last),
                                  bias_ ? p.weight_pack(bias_->first, bias_->last) : TensorView());
}

void Linear::backward_gelu(const LayerContext& ctx, TensorView dh, TensorView dy, TensorView x,
                           TensorView h) const {
  backward(ctx, {}, dy, x);
  ctx.kernels.linear_gelu_backward_input(dh, dy,
                                         ctx.params.weight_pack(weight_.first, weight_.last), h);
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

void ColumnLinear::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Linear::forward(ctx, y, ctx.tensor.gather(ctx.scratch, x));
}

void ColumnLinear::backward(const LayerContext& ctx, TensorView dx, TensorView dy,
                            TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  const auto partial = ctx.tensor.partial(ctx.scratch, dx);
  Linear::backward(ctx, partial, dy, ctx.tensor.gather(ctx.scratch, x));
  ctx.tensor.reduce(dx, partial);
}

void RowLinear::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  const auto partial = ctx.tensor.partial(ctx.scratch, y);
  Linear::forward(ctx, partial, x, /*with_bias=*/ctx.tensor.rank() == 0);
  ctx.tensor.reduce(y, partial);
}

void RowLinear::backward(const LayerContext& ctx, TensorView dx, TensorView dy,
                         TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Linear::backward(ctx, dx, ctx.tensor.gather(ctx.scratch, dy), x);
}

}  // namespace pg::model
