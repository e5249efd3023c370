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

// Pushes the second product's input.
TensorView Mlp::push_hidden(const LayerContext& ctx, Saved& saved) const {
  const auto hidden = ctx.push(ctx.keep_unless_selective(), ffn());
  if (!ctx.selective) saved.hidden = hidden;
  return hidden;
}

// The first product and the second one's input, of all rows of x. Where backward finds the latter
// kept, GELU may be fused into the product; where it will make it again from saved.wide, it must
// come from there the first time too, to be the same bits.
void Mlp::widen(const LayerContext& ctx, const Saved& saved, TensorView hidden,
                TensorView x) const {
  if (!gated_ && !ctx.selective) {
    wide_.forward_gelu(ctx, hidden, saved.wide, x);
  } else {
    wide_.forward(ctx, saved.wide, x);
    activate(ctx, hidden, saved.wide);
  }
}

// y[N,C]: this tp rank's part of the sum. The bias is added once, by the first.
void Mlp::project(const LayerContext& ctx, TensorView y, TensorView hidden) const {
  down_.forward(ctx, y, hidden, /*with_bias=*/ctx.tensor.rank() == 0);
}

Mlp::Saved Mlp::forward_part(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  const auto hidden = push_hidden(ctx, saved);
  widen(ctx, saved, hidden, x);
  project(ctx, y, hidden);
  return saved;
}

Mlp::Saved Mlp::remake_part(const LayerContext& ctx, TensorView x) const {
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  widen(ctx, saved, push_hidden(ctx, saved), x);
  return saved;
}

Mlp::Saved Mlp::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved{ctx.push(ctx.keep, wide_.out()), {}};
  const auto hidden = push_hidden(ctx, saved);
  {
    const ArenaScope gathered(ctx.scratch);
    widen(ctx, saved, hidden, ctx.tensor.gather(ctx.scratch, x));
  }
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
  const auto d_hidden = gated_ ? ctx.push(ctx.scratch, ffn()) : TensorView();
  auto hidden = saved.hidden;
  if (hidden.empty()) {
    hidden = ctx.push(ctx.scratch, ffn());
    activate(ctx, hidden, saved.wide);
  }
  if (!gated_) {
    down_.backward_gelu(ctx, d_wide, dy, hidden, saved.wide);
    return;
  }
  down_.backward(ctx, d_hidden, dy, hidden);
  ctx.kernels.swiglu_backward(d_wide.slice(1, 0, ffn()), d_wide.slice(1, ffn(), ffn()), d_hidden,
                              saved.wide.slice(1, 0, ffn()), saved.wide.slice(1, ffn(), ffn()));
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
