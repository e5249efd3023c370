#include "model/layers/attention.h"

namespace pg::model {

Attention::Attention(const ModelConfig& config, const ParamLayout& layout,
                     const std::string& prefix)
    : site_(prefix + ".probabilities"),
      qkv_(layout, prefix + ".q", prefix + ".v", config.bias),
      out_(layout, prefix + ".out", prefix + ".out", config.bias) {}

void Attention::rotate(const LayerContext& ctx, TensorView packed, bool inverse) const {
  const auto& c = ctx.config;
  if (c.position != PositionKind::kRope) return;
  // q and k are neighbours: one pass turns both.
  const auto heads = packed.slice(1, 0, c.q_width() + c.kv_width()).split_last(c.head_dim);
  ctx.kernels.rope(heads, ctx.batch.positions, c.rope_theta, inverse);
}

Attention::Saved Attention::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  const bool moves = attends_to_whole_sequences(ctx);
  const auto qkv = ctx.push(moves ? ctx.scratch : ctx.keep, qkv_.out());
  qkv_.forward(ctx, qkv, x);
  rotate(ctx, qkv, /*inverse=*/false);
  Saved saved;
  saved.qkv = moves ? to_heads(ctx, ctx.keep, qkv) : qkv;
  attend(ctx, ctx.keep_unless_selective(), saved, site_);
  out_.forward(ctx, y, saved.out);
  if (ctx.selective) saved.o = saved.lse = saved.out = TensorView();
  return saved;
}

void Attention::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                         const Saved& kept) const {
  const ArenaScope scope(ctx.scratch);
  const auto dqkv = ctx.push(ctx.scratch, qkv_.out());
  {
    const ArenaScope inner(ctx.scratch);
    auto saved = kept;
    if (saved.o.empty()) attend(ctx, ctx.scratch, saved, site_);
    const auto d_out = ctx.push(ctx.scratch, ctx.config.q_width());
    out_.backward(ctx, d_out, dy, saved.out);
    attend_backward(ctx, dqkv, d_out, saved, site_);
  }
  rotate(ctx, dqkv, /*inverse=*/true);
  qkv_.backward(ctx, dx, dqkv, x);
}

}  // namespace pg::model
