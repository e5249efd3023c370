// Context parallelism by gathering (Llama 3, 2024): every rank has all keys and values of its
// sequences while it attends with its own queries, and gives the keys' gradients back to their
// owners in one sum.
#include "model/buffer_view.h"
#include "model/layers/context_attention.h"

namespace pg::model::gathered {

namespace {

// Between [B, S, W] in true order and [cp, B, T, W] by rank.
template <class Move>  // move(part of the whole, part of the ranks')
void for_runs(const LayerContext& ctx, TensorView whole, TensorView by_rank, Move move) {
  for (int rank = 0; rank < ctx.context.size(); ++rank) {
    const auto theirs =
        by_rank.slice(0, rank, 1).reshape({by_rank.dim(1), by_rank.dim(2), by_rank.dim(3)});
    for (const auto& run : ctx.context.runs_of(rank)) {
      move(whole.slice(1, run.begin, run.length), theirs.slice(1, run.row, run.length));
    }
  }
}

TensorView push_whole(const LayerContext& ctx, DType type) {
  return ctx.scratch.push(type,
                          {ctx.batch.sequences, ctx.context.seq(), 2 * ctx.config.kv_width()});
}
TensorView push_by_rank(const LayerContext& ctx, DType type) {
  return ctx.scratch.push(
      type, {ctx.context.size(), ctx.batch.sequences, ctx.batch.seq, 2 * ctx.config.kv_width()});
}

// [B, S, 2K, D]: k and v of whole sequences.
TensorView gather_keys(const LayerContext& ctx, TensorView qkv) {
  const auto& c = ctx.config;
  const auto whole = push_whole(ctx, qkv.dtype());
  const ArenaScope scope(ctx.scratch);
  const auto by_rank = push_by_rank(ctx, qkv.dtype());
  const auto mine =
      by_rank.slice(0, ctx.context.rank(), 1).reshape({ctx.tokens(), 2 * c.kv_width()});
  ctx.kernels.copy(mine, qkv.slice(1, c.q_width(), 2 * c.kv_width()));
  ctx.context.group().all_gather(buffer_view(mine), buffer_view(by_rank)).wait();
  for_runs(ctx, whole, by_rank,
           [&](TensorView to, TensorView from) { ctx.kernels.copy(to, from); });
  return whole.split_last(c.head_dim);
}

}  // namespace

void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const auto& c = ctx.config;
  const auto q = split_heads(saved.qkv, ctx.batch.sequences, c.heads, c.kv_heads).q;
  const auto o = by_head(ctx, saved.o);
  const auto keys = gather_keys(ctx, saved.qkv);
  for (const auto& run : ctx.context.runs()) {
    const auto seen = keys.slice(1, 0, run.end());
    ctx.kernels.attention_forward(o.slice(1, run.row, run.length),
                                  saved.lse.slice(2, run.row, run.length),
                                  q.slice(1, run.row, run.length), seen.slice(2, 0, c.kv_heads),
                                  seen.slice(2, c.kv_heads, c.kv_heads),
                                  attention_shape(ctx, run.begin, run.length, 0), dropout);
  }
}

void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const auto& c = ctx.config;
  const auto accumulator = ctx.params.accumulator();
  const auto q = split_heads(saved.qkv, ctx.batch.sequences, c.heads, c.kv_heads).q;
  const auto o = by_head(ctx, saved.o), d_o = by_head(ctx, d_out);
  // Where nothing is rounded, the queries' gradients are added up in their columns of dqkv.
  const auto queries = dqkv.slice(1, 0, c.q_width());
  const bool rounds = ctx.params.compute() != accumulator;
  const auto dq_sum = rounds ? ctx.scratch.push(accumulator, {ctx.tokens(), c.q_width()}) : queries;
  const auto dq = by_head(ctx, dq_sum);
  ctx.kernels.fill_zero(dq_sum);
  const auto d_keys = push_whole(ctx, accumulator);
  ctx.kernels.fill_zero(d_keys);
  {
    const ArenaScope gathered(ctx.scratch);
    const auto keys = gather_keys(ctx, saved.qkv);
    for (const auto& run : ctx.context.runs()) {
      const auto seen = keys.slice(1, 0, run.end());
      const auto d_seen = d_keys.split_last(c.head_dim).slice(1, 0, run.end());
      ctx.kernels.attention_backward(
          dq.slice(1, run.row, run.length), d_seen.slice(2, 0, c.kv_heads),
          d_seen.slice(2, c.kv_heads, c.kv_heads), d_o.slice(1, run.row, run.length),
          q.slice(1, run.row, run.length), seen.slice(2, 0, c.kv_heads),
          seen.slice(2, c.kv_heads, c.kv_heads), o.slice(1, run.row, run.length),
          saved.lse.slice(2, run.row, run.length), attention_shape(ctx, run.begin, run.length, 0),
          dropout, /*accumulate=*/true);
    }
  }
  if (rounds) ctx.kernels.copy(queries, dq_sum);
  const auto by_rank = push_by_rank(ctx, accumulator);
  for_runs(ctx, d_keys, by_rank,
           [&](TensorView from, TensorView to) { ctx.kernels.copy(to, from); });
  const auto own =
      by_rank.slice(0, ctx.context.rank(), 1).reshape({ctx.tokens(), 2 * c.kv_width()});
  ctx.context.group()
      .reduce_scatter(buffer_view(by_rank), buffer_view(own), comm::ReduceOp::kSum)
      .wait();
  ctx.kernels.copy(dqkv.slice(1, c.q_width(), 2 * c.kv_width()), own);
}

}  // namespace pg::model::gathered
