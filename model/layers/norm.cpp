#include "model/layers/norm.h"

namespace pg::model {

Norm::Norm(const ModelConfig& config, const ParamTable& table, const std::string& name)
    : gamma_(table.id(name + ".weight")) {
  if (config.bias && config.norm == NormKind::kLayerNorm) beta_ = table.id(name + ".bias");
}

Norm::Saved Norm::forward(const LayerContext& ctx, TensorView y, const Stream& stream) const {
  Saved saved;
  // Without a branch nothing is added, so nothing is written: the residual itself is kept.
  saved.residual = stream.branch.empty() ? stream.residual : ctx.push(ctx.config.hidden);
  saved.stats = ctx.push_stats();
  ctx.kernels.norm_forward(ctx.config.norm, y, saved.residual, saved.stats, stream.residual,
                           stream.branch, ctx.params.weight(gamma_),
                           beta_ ? ctx.params.weight(*beta_) : TensorView(), ctx.config.norm_eps);
  return saved;
}

void Norm::backward(const LayerContext& ctx, TensorView dr, TensorView dy,
                    const Saved& saved) const {
  ctx.kernels.norm_backward(ctx.config.norm, dr, ctx.params.grad(gamma_),
                            beta_ ? ctx.params.grad(*beta_) : TensorView(), dy, saved.residual,
                            saved.stats, ctx.params.weight(gamma_));
}

}  // namespace pg::model
