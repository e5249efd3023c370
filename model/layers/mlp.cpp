#include "model/layers/mlp.h"

namespace pg::model {

Mlp::Mlp(const ModelConfig& config, const ParamTable& table, const std::string& prefix)
    : gated_(config.activation == Activation::kSwiGlu),
      wide_(table, prefix + (gated_ ? ".gate" : ".up"), prefix + ".up", config.bias),
      down_(table, prefix + ".down", prefix + ".down", config.bias) {}

Mlp::Saved Mlp::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const auto ffn = ctx.config.ffn;
  Saved saved;
  saved.wide = ctx.push(wide_.out());
  saved.hidden = ctx.push(ffn);
  wide_.forward(ctx, saved.wide, x);
  if (gated_) {
    ctx.kernels.swiglu_forward(saved.hidden, saved.wide.slice(1, 0, ffn),
                               saved.wide.slice(1, ffn, ffn));
  } else {
    ctx.kernels.gelu_forward(saved.hidden, saved.wide);
  }
  down_.forward(ctx, y, saved.hidden);
  return saved;
}

void Mlp::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                   const Saved& saved) const {
  const auto ffn = ctx.config.ffn;
  const ArenaScope scope(ctx.arena);
  const auto d_hidden = ctx.push(ffn);
  const auto d_wide = ctx.push(wide_.out());
  down_.backward(ctx, d_hidden, dy, saved.hidden);
  if (gated_) {
    ctx.kernels.swiglu_backward(d_wide.slice(1, 0, ffn), d_wide.slice(1, ffn, ffn), d_hidden,
                                saved.wide.slice(1, 0, ffn), saved.wide.slice(1, ffn, ffn));
  } else {
    ctx.kernels.gelu_backward(d_wide, d_hidden, saved.wide);
  }
  wide_.backward(ctx, dx, d_wide, x);
}

}  // namespace pg::model
