// Context parallelism by heads (DeepSpeed Ulysses, Jacobs et al. 2023): an all-to-all turns parts
// of the sequence with all heads into whole sequences with a part of the heads, another turns the
// outputs back. A KV head of too few is sent to every rank whose query heads read it, and the
// ranks' gradients of it are added up.
#include <algorithm>

#include "model/buffer_view.h"
#include "model/layers/context_attention.h"

namespace pg::model {

namespace {

// How the heads of this tp rank are shared out.
struct Shares {
  explicit Shares(const LayerContext& ctx)
      : ranks(ctx.context.size()),
        heads(ctx.config.heads / ranks),
        kv_heads(std::max<std::int64_t>(1, ctx.config.kv_heads / ranks)),
        copies(std::max<std::int64_t>(1, ranks / ctx.config.kv_heads)),
        size(ctx.config.head_dim) {}
  std::int64_t width() const { return (heads + 2 * kv_heads) * size; }
  std::int64_t first_kv(int rank) const { return rank / copies * kv_heads; }

  int ranks;
  std::int64_t heads, kv_heads, copies, size;
};

// [B, S, W] of whole sequences and [cp, B, T, W] by the rank whose positions they are. Of one
// sequence the two are the same: ranks hold its parts in their order.
template <class Move>  // move(positions of the whole, the same of a rank)
void for_parts(const LayerContext& ctx, TensorView whole, TensorView by_rank, Move move) {
  for (int rank = 0; rank < ctx.context.size(); ++rank) {
    const auto& run = ctx.context.runs_of(rank).front();
    move(whole.slice(1, run.begin, run.length),
         by_rank.slice(0, rank, 1).reshape({by_rank.dim(1), by_rank.dim(2), by_rank.dim(3)}));
  }
}

// Parts of the local sequence, one for each rank, that go out or come in: [cp, B, T, W].
TensorView push_parts(const LayerContext& ctx, DType type, std::int64_t width) {
  return ctx.scratch.push(type, {ctx.context.size(), ctx.batch.sequences, ctx.batch.seq, width});
}

void exchange(const LayerContext& ctx, TensorView to, TensorView from) {
  comm::all_to_all(ctx.context.group(), buffer_view(from), buffer_view(to)).wait();
}

// From heads and positions of this rank, x[B S, W], to all heads of its positions: [cp, B, T, W].
TensorView to_positions(const LayerContext& ctx, TensorView x) {
  const auto width = x.dim(1);
  const auto back = push_parts(ctx, x.dtype(), width);
  if (ctx.batch.sequences == 1) {
    exchange(ctx, back, x);
    return back;
  }
  const ArenaScope scope(ctx.scratch);
  const auto parts = push_parts(ctx, x.dtype(), width);
  for_parts(ctx, x.split_first(ctx.batch.sequences), parts,
            [&](TensorView from, TensorView to) { ctx.kernels.copy(to, from); });
  exchange(ctx, back, parts);
  return back;
}

TensorView of_rank(TensorView parts, int rank) {  // [N, W]
  return parts.slice(0, rank, 1).reshape({parts.dim(1) * parts.dim(2), parts.dim(3)});
}

// From all heads of this rank's positions, [cp, B, T, W] by the rank that gets them, to x[B S, W].
void from_positions(const LayerContext& ctx, TensorView x, TensorView parts) {
  if (ctx.batch.sequences == 1) return exchange(ctx, x, parts);
  const ArenaScope scope(ctx.scratch);
  const auto arrived = push_parts(ctx, x.dtype(), x.dim(1));
  exchange(ctx, arrived, parts);
  for_parts(ctx, x.split_first(ctx.batch.sequences), arrived,
            [&](TensorView to, TensorView from) { ctx.kernels.copy(to, from); });
}

}  // namespace

TensorView to_heads(const LayerContext& ctx, Arena& arena, TensorView qkv) {
  const Shares s(ctx);
  const auto& c = ctx.config;
  const auto whole = ctx.push_rows(arena, ctx.batch.sequences * ctx.context.seq(), s.width());
  const ArenaScope scope(ctx.scratch);
  const auto parts = push_parts(ctx, qkv.dtype(), s.width());
  for (int rank = 0; rank < s.ranks; ++rank) {
    const auto to = of_rank(parts, rank);
    std::int64_t at = 0;
    const auto take = [&](std::int64_t begin, std::int64_t heads) {
      ctx.kernels.copy(to.slice(1, at, heads * s.size),
                       qkv.slice(1, begin * s.size, heads * s.size));
      at += heads * s.size;
    };
    take(rank * s.heads, s.heads);
    take(c.heads + s.first_kv(rank), s.kv_heads);
    take(c.heads + c.kv_heads + s.first_kv(rank), s.kv_heads);
  }
  from_positions(ctx, whole, parts);
  return whole;
}

namespace ulysses {

void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const Shares s(ctx);
  const auto [q, k, v] = split_heads(saved.qkv, ctx.batch.sequences, s.heads, s.kv_heads);
  ctx.kernels.attention_forward(by_head(ctx, saved.o), saved.lse, q, k, v,
                                attention_shape(ctx, 0, ctx.context.seq(), 0), dropout);
  const auto parts = to_positions(ctx, saved.o);
  for (int rank = 0; rank < s.ranks; ++rank) {
    ctx.kernels.copy(saved.out.slice(1, rank * s.heads * s.size, s.heads * s.size),
                     of_rank(parts, rank));
  }
}

void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const Shares s(ctx);
  const auto& c = ctx.config;
  // Copies of a KV head are added up before they are rounded.
  const auto type = s.copies > 1 ? ctx.params.accumulator() : ctx.params.compute();
  const auto d_heads = ctx.scratch.push(type, {ctx.batch.sequences * ctx.context.seq(), s.width()});
  {
    const ArenaScope inner(ctx.scratch);
    const auto d_o = ctx.push_rows(ctx.scratch, saved.o.dim(0), saved.o.dim(1));
    {
      const ArenaScope sent(ctx.scratch);
      const auto parts = push_parts(ctx, d_out.dtype(), s.heads * s.size);
      for (int rank = 0; rank < s.ranks; ++rank) {
        ctx.kernels.copy(of_rank(parts, rank),
                         d_out.slice(1, rank * s.heads * s.size, s.heads * s.size));
      }
      from_positions(ctx, d_o, parts);
    }
    const auto [q, k, v] = split_heads(saved.qkv, ctx.batch.sequences, s.heads, s.kv_heads);
    const auto [dq, dk, dv] = split_heads(d_heads, ctx.batch.sequences, s.heads, s.kv_heads);
    ctx.kernels.attention_backward(dq, dk, dv, by_head(ctx, d_o), q, k, v, by_head(ctx, saved.o),
                                   saved.lse, attention_shape(ctx, 0, ctx.context.seq(), 0),
                                   dropout);
  }
  const auto parts = to_positions(ctx, d_heads);
  for (int rank = 0; rank < s.ranks; ++rank) {
    const auto from = of_rank(parts, rank);
    ctx.kernels.copy(dqkv.slice(1, rank * s.heads * s.size, s.heads * s.size),
                     from.slice(1, 0, s.heads * s.size));
    if (rank % s.copies != 0) continue;
    for (std::int64_t copy = 1; copy < s.copies; ++copy) {
      ctx.kernels.add(from.slice(1, s.heads * s.size, 2 * s.kv_heads * s.size),
                      of_rank(parts, rank + static_cast<int>(copy))
                          .slice(1, s.heads * s.size, 2 * s.kv_heads * s.size));
    }
    for (std::int64_t which = 0; which < 2; ++which) {  // k, v
      const auto first = c.heads + which * c.kv_heads + s.first_kv(rank);
      ctx.kernels.copy(dqkv.slice(1, first * s.size, s.kv_heads * s.size),
                       from.slice(1, (s.heads + which * s.kv_heads) * s.size, s.kv_heads * s.size));
    }
  }
}

}  // namespace ulysses
}  // namespace pg::model
