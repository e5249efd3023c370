#include "model/layers/mlp.h"

namespace pg::model {

Mlp::Mlp(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix)
    : gated_(config.activation == Activation::kSwiGlu),
      wide_(layout, prefix + (gated_ ? ".gate" : ".up"), prefix + ".up", config.bias),
      down_(layout, prefix + ".down", prefix + ".down", config.bias) {}

void Mlp::activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const {
  if (gated_) {
    ctx.kernels.swiglu_forward(hidden, wide.slice(1, 0, ffn()), wide.slice(1, ffn(), ffn()));
  } else {
    ctx.kernels.gelu_forward(hidden, wide);
  }
}

// Pushes and fills the second product's input.
TensorView Mlp::hidden_of(const LayerContext& ctx, Saved& saved) const {
  const auto hidden = ctx.push(ctx.keep_unless_selective(), ffn());
  activate(ctx, hidden, saved.wide);
  if (!ctx.selective) saved.hidden = hidden;
  return hidden;
}

// y[N,C]: this tp rank's part of the sum. The bias is added once, by the first.
void Mlp::project(const LayerContext& ctx, TensorView y, TensorView hidden) const {
  down_.forward(ctx, y, hidden, /*with_bias=*/ctx.tensor.rank() == 0);
}

Mlp::Saved Mlp::forward_part(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  wide_.forward(ctx, saved.wide, x);
  project(ctx, y, hidden_of(ctx, saved));
  return saved;
}

Mlp::Saved Mlp::remake_part(const LayerContext& ctx, TensorView x) const {
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  wide_.forward(ctx, saved.wide, x);
  hidden_of(ctx, saved);
  return saved;
}

Mlp::Saved Mlp::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  {
    const ArenaScope gathered(ctx.scratch);
    wide_.forward(ctx, saved.wide, ctx.tensor.gather(ctx.scratch, x));
  }
  const auto hidden = hidden_of(ctx, saved);
  const auto partial = ctx.tensor.partial(ctx.scratch, y);
  project(ctx, partial, hidden);
  ctx.tensor.reduce(y, partial);
  return saved;
}

Mlp::Saved Mlp::remake(const LayerContext& ctx, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  return remake_part(ctx, ctx.tensor.gather(ctx.scratch, x));
}

// d_wide[N, its width] from dy[N,C]; the second product's weights get their gradients.
void Mlp::backward_hidden(const LayerContext& ctx, TensorView d_wide, TensorView dy,
                          const Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto d_hidden = ctx.push(ctx.scratch, ffn());
  auto hidden = saved.hidden;
  if (hidden.empty()) {
    hidden = ctx.push(ctx.scratch, ffn());
    activate(ctx, hidden, saved.wide);
  }
  down_.backward(ctx, d_hidden, dy, hidden);
  if (gated_) {
    ctx.kernels.swiglu_backward(d_wide.slice(1, 0, ffn()), d_wide.slice(1, ffn(), ffn()), d_hidden,
                                saved.wide.slice(1, 0, ffn()), saved.wide.slice(1, ffn(), ffn()));
  } else {
    ctx.kernels.gelu_backward(d_wide, d_hidden, saved.wide);
  }
}

void Mlp::backward_part(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                        const Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto d_wide = ctx.push(ctx.scratch, wide_.out());
  backward_hidden(ctx, d_wide, dy, saved);
  wide_.backward(ctx, dx, d_wide, x);
}

void Mlp::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                   const Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto d_wide = ctx.push(ctx.scratch, wide_.out());
  {
    const ArenaScope gathered(ctx.scratch);
    backward_hidden(ctx, d_wide, ctx.tensor.gather(ctx.scratch, dy), saved);
  }
  const auto partial = ctx.tensor.partial(ctx.scratch, dx);
  wide_.backward(ctx, partial, d_wide, ctx.tensor.gather(ctx.scratch, x));
  ctx.tensor.reduce(dx, partial);
}

}  // namespace pg::model
