#include "model/layers/attention.h"

#include <cmath>

namespace pg::model {

Attention::Attention(const ModelConfig& config, const ParamTable& table, const std::string& prefix)
    : site_(prefix),
      qkv_(table, prefix + ".q", prefix + ".v", config.bias),
      out_(table, prefix + ".out", prefix + ".out", config.bias) {}

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

Attention::Saved Attention::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const auto& c = ctx.config;
  Saved saved;
  saved.qkv = ctx.push(qkv_.out());
  saved.o = ctx.push(c.q_width());
  saved.lse =
      ctx.arena.push(ctx.params.accumulator(), {ctx.batch.sequences, c.heads, ctx.batch.seq});

  qkv_.forward(ctx, saved.qkv, x);
  rotate(ctx, saved.qkv, /*inverse=*/false);
  const auto [q, k, v] = heads(ctx, saved.qkv);
  ctx.kernels.attention_forward(saved.o.split_last(c.head_dim).split_first(ctx.batch.sequences),
                                saved.lse, q, k, v, shape(c),
                                ctx.dropout(site_ + ".probabilities"));
  out_.forward(ctx, y, saved.o);
  return saved;
}

void Attention::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                         const Saved& saved) const {
  const auto& c = ctx.config;
  const ArenaScope scope(ctx.arena);
  const auto d_o = ctx.push(c.q_width());
  const auto dqkv = ctx.push(qkv_.out());
  const auto by_head = [&](TensorView o) {
    return o.split_last(c.head_dim).split_first(ctx.batch.sequences);
  };

  out_.backward(ctx, d_o, dy, saved.o);
  const auto [q, k, v] = heads(ctx, saved.qkv);
  const auto [dq, dk, dv] = heads(ctx, dqkv);
  ctx.kernels.attention_backward(dq, dk, dv, by_head(d_o), q, k, v, by_head(saved.o), saved.lse,
                                 shape(c), ctx.dropout(site_ + ".probabilities"));
  rotate(ctx, dqkv, /*inverse=*/true);
  qkv_.backward(ctx, dx, dqkv, x);
}

}  // namespace pg::model
