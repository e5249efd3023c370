// Ring attention (Liu et al. 2023) over zigzag chunks: keys and values of one rank after another
// pass by, the next ones travelling while these are used; partial results are merged by their
// log-sum-exps. Backward sends the keys and values round once more, and with them their gradients,
// each rank adding its share, until they are home.
#include <optional>
#include <utility>

#include "model/buffer_view.h"
#include "model/layers/context_attention.h"

namespace pg::model {

std::vector<AttentionTile> ring_tiles(const std::vector<SequenceRun>& queries,
                                      const std::vector<SequenceRun>& keys, std::int64_t window) {
  std::vector<AttentionTile> tiles;
  for (const auto& query : queries) {
    for (const auto& key : keys) {
      const bool later = key.begin >= query.end();
      const bool passed = window > 0 && key.end() <= query.begin - window + 1;
      if (!later && !passed) tiles.push_back({query, key});
    }
  }
  return tiles;
}

namespace ring {

namespace {

constexpr int kKeysTag = 0, kGradientsTag = 1;

// The ring's neighbours, and whose keys are here at a step.
struct Ring {
  explicit Ring(const ContextParallel& c)
      : group(c.group()),
        size(c.size()),
        rank(c.rank()),
        next((c.rank() + 1) % c.size()),
        previous((c.rank() + c.size() - 1) % c.size()) {}
  int owner(int step) const { return (rank + size - step) % size; }

  comm::Group& group;
  int size, rank, next, previous;
};

struct Keys {
  TensorView k, v;  // [B,T,K,D] in a packed [N, 2 K D]
};

Keys split_keys(const LayerContext& ctx, TensorView packed) {
  const auto heads = by_head(ctx, packed);  // [B,T,2K,D]
  return {heads.slice(2, 0, ctx.config.kv_heads),
          heads.slice(2, ctx.config.kv_heads, ctx.config.kv_heads)};
}

TensorView part(TensorView x, const SequenceRun& run) {  // of [B,T,...]
  return x.slice(1, run.row, run.length);
}

// This rank's keys and values, packed alone.
TensorView push_keys(const LayerContext& ctx, TensorView qkv) {
  const auto& c = ctx.config;
  const auto packed = ctx.push(ctx.scratch, 2 * c.kv_width());
  ctx.kernels.copy(packed, qkv.slice(1, c.q_width(), 2 * c.kv_width()));
  return packed;
}

// Both directions of a step: ours go on, the previous rank's come.
class Exchange {
 public:
  Exchange(const Ring& ring, TensorView leaving, TensorView coming, int tag)
      : coming_(ring.group.recv(buffer_view(coming), ring.previous, tag)),
        leaving_(ring.group.send(buffer_view(leaving), ring.next, tag)) {}
  void wait() {
    coming_.wait();
    leaving_.wait();
  }

 private:
  comm::Pending coming_, leaving_;
};

}  // namespace

void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const auto& c = ctx.config;
  const Ring ring(ctx.context);
  const auto accumulator = ctx.params.accumulator();
  const auto q = split_heads(saved.qkv, ctx.batch.sequences, c.heads, c.kv_heads).q;
  const bool rounds = ctx.params.compute() != accumulator;
  const auto sum = rounds ? ctx.scratch.push(accumulator, {ctx.tokens(), c.q_width()}) : saved.o;
  const auto o = by_head(ctx, sum);
  auto here = push_keys(ctx, saved.qkv), coming = ctx.push(ctx.scratch, 2 * c.kv_width());
  // A run's first result needs no merging.
  std::vector<bool> begun(ctx.context.runs().size());

  for (int step = 0; step < ring.size; ++step) {
    const bool more = step + 1 < ring.size;
    std::optional<Exchange> exchange;
    if (more) exchange.emplace(ring, here, coming, kKeysTag);
    const auto [k, v] = split_keys(ctx, here);
    for (const auto& tile :
         ring_tiles(ctx.context.runs(), ctx.context.runs_of(ring.owner(step)), c.window)) {
      const ArenaScope inner(ctx.scratch);
      const auto& [query, key] = tile;
      const auto shape = attention_shape(ctx, query.begin, query.length, key.begin);
      const auto whole_o = part(o, query), whole_lse = saved.lse.slice(2, query.row, query.length);
      const auto run = static_cast<std::size_t>(query.row / query.length);
      if (!begun[run]) {
        ctx.kernels.attention_forward(whole_o, whole_lse, part(q, query), part(k, key),
                                      part(v, key), shape, dropout);
        begun[run] = true;
        continue;
      }
      const auto tile_o =
          ctx.scratch.push(accumulator, {ctx.batch.sequences, query.length, c.heads, c.head_dim});
      const auto tile_lse =
          ctx.scratch.push(accumulator, {ctx.batch.sequences, c.heads, query.length});
      ctx.kernels.attention_forward(tile_o, tile_lse, part(q, query), part(k, key), part(v, key),
                                    shape, dropout);
      ctx.kernels.attention_merge(whole_o, whole_lse, tile_o, tile_lse);
    }
    if (more) {
      exchange->wait();
      std::swap(here, coming);
    }
  }
  if (rounds) ctx.kernels.copy(saved.o, sum);
}

void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout) {
  const ArenaScope scope(ctx.scratch);
  const auto& c = ctx.config;
  const Ring ring(ctx.context);
  const auto accumulator = ctx.params.accumulator();
  const auto q = split_heads(saved.qkv, ctx.batch.sequences, c.heads, c.kv_heads).q;
  const auto o = by_head(ctx, saved.o), d_o = by_head(ctx, d_out);
  auto here = push_keys(ctx, saved.qkv), coming = ctx.push(ctx.scratch, 2 * c.kv_width());
  const auto push_sum = [&](std::int64_t width) {
    return ctx.scratch.push(accumulator, {ctx.tokens(), width});
  };
  // Where nothing is rounded, sums are made in their columns of dqkv: the queries', and those of
  // this rank's own keys.
  const auto queries = dqkv.slice(1, 0, c.q_width());
  const auto keys = dqkv.slice(1, c.q_width(), 2 * c.kv_width());
  const bool rounds = ctx.params.compute() != accumulator;
  const auto dq_sum = rounds ? push_sum(c.q_width()) : queries;
  const auto own = rounds ? push_sum(2 * c.kv_width()) : keys;
  const auto dq = by_head(ctx, dq_sum);
  ctx.kernels.fill_zero(dq_sum);
  // Of the keys that are here: what earlier ranks found, with this rank's share, and that share.
  auto share = push_sum(2 * c.kv_width()), so_far = push_sum(2 * c.kv_width());
  const auto mine = ring.size > 2 ? push_sum(2 * c.kv_width()) : TensorView();
  std::optional<Exchange> gradients;

  for (int step = 0; step < ring.size; ++step) {
    const bool more = step + 1 < ring.size;
    std::optional<Exchange> exchange;
    if (more) exchange.emplace(ring, here, coming, kKeysTag);
    // Gradients set out from the first rank that is not at home: nobody was there before it.
    const auto found = step == 0 ? own : step == 1 ? share : mine;
    ctx.kernels.fill_zero(found);
    const auto [k, v] = split_keys(ctx, here);
    const auto [dk, dv] = split_keys(ctx, found);
    for (const auto& tile :
         ring_tiles(ctx.context.runs(), ctx.context.runs_of(ring.owner(step)), c.window)) {
      const auto& [query, key] = tile;
      ctx.kernels.attention_backward(
          part(dq, query), part(dk, key), part(dv, key), part(d_o, query), part(q, query),
          part(k, key), part(v, key), part(o, query), saved.lse.slice(2, query.row, query.length),
          attention_shape(ctx, query.begin, query.length, key.begin), dropout,
          /*accumulate=*/true);
    }
    // They follow their keys a step later, and are home after size - 1 hops.
    if (gradients) {
      gradients->wait();
      ctx.kernels.add(so_far, mine);
      std::swap(share, so_far);
    }
    if (step > 0) gradients.emplace(ring, share, so_far, kGradientsTag);
    if (more) {
      exchange->wait();
      std::swap(here, coming);
    }
  }
  gradients->wait();  // home
  ctx.kernels.add(own, so_far);
  if (!rounds) return;
  ctx.kernels.copy(queries, dq_sum);
  ctx.kernels.copy(keys, own);
}

}  // namespace ring
}  // namespace pg::model
