#include "model/layers/norm.h"

namespace pg::model {

Norm::Norm(const ModelConfig& config, const ParamLayout& layout, const std::string& name)
    : gamma_(layout.table().id(name + ".weight")) {
  if (config.bias && config.norm == NormKind::kLayerNorm) beta_ = layout.table().id(name + ".bias");
}

Norm::Saved Norm::forward(const LayerContext& ctx, TensorView y, const Stream& stream) const {
  Saved saved;
  // Without a branch nothing is added, so nothing is written: the residual itself is kept.
  saved.residual = stream.branch.empty() ? stream.residual : ctx.push_stream(ctx.keep);
  saved.stats = ctx.push_stats(ctx.keep);
  ctx.kernels.norm_forward(ctx.config.norm, y, saved.residual, saved.stats, stream.residual,
                           stream.branch, ctx.params.weight(gamma_),
                           beta_ ? ctx.params.weight(*beta_) : TensorView(), ctx.config.norm_eps);
  return saved;
}

void Norm::again(const LayerContext& ctx, TensorView y, const Saved& saved) const {
  ctx.kernels.norm_forward(ctx.config.norm, y, saved.residual, saved.stats, saved.residual, {},
                           ctx.params.weight(gamma_),
                           beta_ ? ctx.params.weight(*beta_) : TensorView(), ctx.config.norm_eps);
}

void Norm::backward(const LayerContext& ctx, TensorView dr, TensorView dy,
                    const Saved& saved) const {
  ctx.kernels.norm_backward(ctx.config.norm, dr, ctx.params.grad(gamma_),
                            beta_ ? ctx.params.grad(*beta_) : TensorView(), dy, saved.residual,
                            saved.stats, ctx.params.weight(gamma_));
}

}  // namespace pg::model
