#include "model/layers/context_attention.h"

#include <cmath>

namespace pg::model {

Heads split_heads(TensorView packed, std::int64_t sequences, std::int64_t heads,
                  std::int64_t kv_heads) {
  const auto size = packed.dim(1) / (heads + 2 * kv_heads);
  const auto cut = [&](std::int64_t begin, std::int64_t count) {
    return packed.slice(1, begin * size, count * size).split_last(size).split_first(sequences);
  };
  return {cut(0, heads), cut(heads, kv_heads), cut(heads + kv_heads, kv_heads)};
}

TensorView by_head(const LayerContext& ctx, TensorView x) {
  return x.split_last(ctx.config.head_dim).split_first(ctx.batch.sequences);
}

AttentionShape attention_shape(const LayerContext& ctx, std::int64_t first_query,
                               std::int64_t queries, std::int64_t first_key) {
  AttentionShape shape;
  shape.scale = 1.0 / std::sqrt(static_cast<double>(ctx.config.head_dim));
  shape.window = ctx.config.window;
  shape.first_query = first_query;
  shape.first_key = first_key;
  shape.seq = ctx.context.seq();
  if (!ctx.batch.document_begin.empty()) {
    shape.visible_from = ctx.batch.document_begin.slice(1, first_query, queries);
  }
  return shape;
}

bool attends_to_whole_sequences(const LayerContext& ctx) {
  return ctx.context.size() > 1 && ctx.context.method() == ContextMethod::kUlysses;
}

namespace {

Dropout dropout_of(const LayerContext& ctx, const std::string& site) {
  auto dropout = ctx.head_dropout(site);
  if (attends_to_whole_sequences(ctx)) {
    dropout.first_head += ctx.config.heads / ctx.context.size() * ctx.context.rank();
  }
  return dropout;
}

}  // namespace

void attend(const LayerContext& ctx, Arena& arena, AttentionSaved& saved, const std::string& site) {
  const auto& c = ctx.config;
  const auto sequences = ctx.batch.sequences;
  const auto dropout = dropout_of(ctx, site);
  saved.out = ctx.push(arena, c.q_width());
  if (attends_to_whole_sequences(ctx)) {
    const auto heads = c.heads / ctx.context.size(), seq = ctx.context.seq();
    saved.o = ctx.push_rows(arena, sequences * seq, heads * c.head_dim);
    saved.lse = arena.push(ctx.params.accumulator(), {sequences, heads, seq});
    return ulysses::forward(ctx, saved, dropout);
  }
  saved.o = saved.out;
  saved.lse = arena.push(ctx.params.accumulator(), {sequences, c.heads, ctx.batch.seq});
  if (ctx.context.size() > 1) {
    return ctx.context.method() == ContextMethod::kRing ? ring::forward(ctx, saved, dropout)
                                                        : gathered::forward(ctx, saved, dropout);
  }
  const auto [q, k, v] = split_heads(saved.qkv, sequences, c.heads, c.kv_heads);
  ctx.kernels.attention_forward(by_head(ctx, saved.o), saved.lse, q, k, v,
                                attention_shape(ctx, 0, ctx.batch.seq, 0), dropout);
}

void attend_backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
                     const AttentionSaved& saved, const std::string& site) {
  const auto& c = ctx.config;
  const auto dropout = dropout_of(ctx, site);
  if (ctx.context.size() > 1) {
    switch (ctx.context.method()) {
      case ContextMethod::kRing:
        return ring::backward(ctx, dqkv, d_out, saved, dropout);
      case ContextMethod::kUlysses:
        return ulysses::backward(ctx, dqkv, d_out, saved, dropout);
      case ContextMethod::kAllGather:
        return gathered::backward(ctx, dqkv, d_out, saved, dropout);
    }
  }
  const auto [q, k, v] = split_heads(saved.qkv, ctx.batch.sequences, c.heads, c.kv_heads);
  const auto [dq, dk, dv] = split_heads(dqkv, ctx.batch.sequences, c.heads, c.kv_heads);
  ctx.kernels.attention_backward(dq, dk, dv, by_head(ctx, d_out), q, k, v, by_head(ctx, saved.o),
                                 saved.lse, attention_shape(ctx, 0, ctx.batch.seq, 0), dropout);
}

}  // namespace pg::model
