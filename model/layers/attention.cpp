#include "model/layers/attention.h"

#include <cmath>

namespace pg::model {

Attention::Attention(const ModelConfig& config, const ParamLayout& layout,
                     const std::string& prefix)
    : site_(prefix),
      qkv_(layout, prefix + ".q", prefix + ".v", config.bias),
      out_(layout, prefix + ".out", prefix + ".out", config.bias) {}

AttentionShape Attention::shape(const ModelConfig& config) const {
  return {1.0 / std::sqrt(static_cast<double>(config.head_dim)), config.window};
}

Attention::Heads Attention::heads(const LayerContext& ctx, TensorView packed) const {
  const auto& c = ctx.config;
  const auto cut = [&](std::int64_t begin, std::int64_t width) {
    return packed.slice(1, begin, width).split_last(c.head_dim).split_first(ctx.batch.sequences);
  };
  return {cut(0, c.q_width()), cut(c.q_width(), c.kv_width()),
          cut(c.q_width() + c.kv_width(), c.kv_width())};
}

void Attention::rotate(const LayerContext& ctx, TensorView packed, bool inverse) const {
  const auto& c = ctx.config;
  if (c.position != PositionKind::kRope) return;
  // q and k are neighbours: one pass turns both.
  const auto heads = packed.slice(1, 0, c.q_width() + c.kv_width()).split_last(c.head_dim);
  ctx.kernels.rope(heads, ctx.batch.positions, c.rope_theta, inverse);
}

void Attention::attend(const LayerContext& ctx, Arena& arena, Saved& saved) const {
  const auto& c = ctx.config;
  saved.o = ctx.push(arena, c.q_width());
  saved.lse = arena.push(ctx.params.accumulator(), {ctx.batch.sequences, c.heads, ctx.batch.seq});
  const auto [q, k, v] = heads(ctx, saved.qkv);
  ctx.kernels.attention_forward(saved.o.split_last(c.head_dim).split_first(ctx.batch.sequences),
                                saved.lse, q, k, v, shape(c),
                                ctx.head_dropout(site_ + ".probabilities"));
}

Attention::Saved Attention::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  Saved saved;
  saved.qkv = ctx.push(ctx.keep, qkv_.out());
  qkv_.forward(ctx, saved.qkv, x);
  rotate(ctx, saved.qkv, /*inverse=*/false);
  attend(ctx, ctx.keep_unless_selective(), saved);
  out_.forward(ctx, y, saved.o);
  if (ctx.selective) saved.o = saved.lse = TensorView();
  return saved;
}

void Attention::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                         const Saved& kept) const {
  const auto& c = ctx.config;
  const ArenaScope scope(ctx.scratch);
  const auto dqkv = ctx.push(ctx.scratch, qkv_.out());
  {
    const ArenaScope inner(ctx.scratch);
    auto saved = kept;
    if (saved.o.empty()) attend(ctx, ctx.scratch, saved);
    const auto d_o = ctx.push(ctx.scratch, c.q_width());
    out_.backward(ctx, d_o, dy, saved.o);
    const auto by_head = [&](TensorView o) {
      return o.split_last(c.head_dim).split_first(ctx.batch.sequences);
    };
    const auto [q, k, v] = heads(ctx, saved.qkv);
    const auto [dq, dk, dv] = heads(ctx, dqkv);
    ctx.kernels.attention_backward(dq, dk, dv, by_head(d_o), q, k, v, by_head(saved.o), saved.lse,
                                   shape(c), ctx.head_dropout(site_ + ".probabilities"));
  }
  rotate(ctx, dqkv, /*inverse=*/true);
  qkv_.backward(ctx, dx, dqkv, x);
}

}  // namespace pg::model
