#include "model/layers/mlp.h"

namespace pg::model {

Mlp::Mlp(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix)
    : gated_(config.activation == Activation::kSwiGlu),
      wide_(layout, prefix + (gated_ ? ".gate" : ".up"), prefix + ".up", config.bias),
      down_(layout, prefix + ".down", prefix + ".down", config.bias) {}

void Mlp::activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const {
  const auto ffn = ctx.config.ffn;
  if (gated_) {
    ctx.kernels.swiglu_forward(hidden, wide.slice(1, 0, ffn), wide.slice(1, ffn, ffn));
  } else {
    ctx.kernels.gelu_forward(hidden, wide);
  }
}

Mlp::Saved Mlp::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved;
  saved.wide = ctx.push(ctx.keep, wide_.out());
  wide_.forward(ctx, saved.wide, x);
  const auto hidden = ctx.push(ctx.keep_unless_selective(), ctx.config.ffn);
  activate(ctx, hidden, saved.wide);
  down_.forward(ctx, y, hidden);
  if (!ctx.selective) saved.hidden = hidden;
  return saved;
}

Mlp::Saved Mlp::remake(const LayerContext& ctx, TensorView x) const {
  Saved saved;
  saved.wide = ctx.push(ctx.keep, wide_.out());
  saved.hidden = ctx.push(ctx.keep, ctx.config.ffn);
  wide_.forward(ctx, saved.wide, x);
  activate(ctx, saved.hidden, saved.wide);
  return saved;
}

void Mlp::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                   const Saved& saved) const {
  const auto ffn = ctx.config.ffn;
  const ArenaScope scope(ctx.scratch);
  const auto d_wide = ctx.push(ctx.scratch, wide_.out());
  {
    const ArenaScope inner(ctx.scratch);
    const auto d_hidden = ctx.push(ctx.scratch, ffn);
    auto hidden = saved.hidden;
    if (hidden.empty()) {
      hidden = ctx.push(ctx.scratch, ffn);
      activate(ctx, hidden, saved.wide);
    }
    down_.backward(ctx, d_hidden, dy, hidden);
    if (gated_) {
      ctx.kernels.swiglu_backward(d_wide.slice(1, 0, ffn), d_wide.slice(1, ffn, ffn), d_hidden,
                                  saved.wide.slice(1, 0, ffn), saved.wide.slice(1, ffn, ffn));
    } else {
      ctx.kernels.gelu_backward(d_wide, d_hidden, saved.wide);
    }
  }
  wide_.backward(ctx, dx, d_wide, x);
}

}  // namespace pg::model
