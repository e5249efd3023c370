#include "model/layers/router.h"

#include "model/buffer_view.h"

namespace pg::model {

Router::Router(const ModelConfig& config, const ParamLayout& layout, std::int64_t block)
    : block_(block),
      moe_(config.moe),
      weight_(layout.table().id(fmt::format("blocks.{}.moe.router.weight", block))) {
  PG_ASSERT(moe_.router == RouterKind::kTopK || !moe_.renormalize, "only top_k renormalises");
  PG_ASSERT(moe_.router != RouterKind::kSwitch || moe_.top_k == 1, "top_k {}", moe_.top_k);
}

double Router::balance_factor(const LayerContext& ctx) const {
  const auto seq = static_cast<double>(ctx.context.seq());
  return static_cast<double>(moe_.experts) / (static_cast<double>(moe_.top_k) * seq * seq);
}

// Each expert takes its best tokens of whole sequences: all parts' probabilities come together, in
// true order, and every rank makes the same choice.
void Router::choose_tokens(const LayerContext& ctx, TensorView chosen, TensorView probs) const {
  const ArenaScope scope(ctx.scratch);
  const auto sequences = ctx.batch.sequences, seq = ctx.context.seq(), experts = moe_.experts;
  const auto count = expert_capacity(moe_, seq);
  const auto mine = [&](TensorView x) { return x.reshape({sequences, ctx.batch.seq, experts}); };
  if (ctx.context.size() == 1) {
    return ctx.kernels.moe_choose_tokens(mine(chosen), mine(probs), count);
  }
  const auto ranks = ctx.context.size();
  const auto gathered = ctx.scratch.push(probs.dtype(), {ranks, sequences, ctx.batch.seq, experts});
  ctx.context.group().all_gather(buffer_view(probs), buffer_view(gathered)).wait();
  const auto scores = ctx.scratch.push(probs.dtype(), {sequences, seq, experts});
  for (int rank = 0; rank < ranks; ++rank) {
    const auto part = gathered.slice(0, rank, 1).reshape({sequences, ctx.batch.seq, experts});
    for (const auto& run : ctx.context.runs_of(rank)) {
      ctx.kernels.copy(scores.slice(1, run.begin, run.length), part.slice(1, run.row, run.length));
    }
  }
  const auto all = ctx.scratch.push(DType::kU8, {sequences, seq, experts});
  ctx.kernels.moe_choose_tokens(all, scores, count);
  for (const auto& run : ctx.context.runs()) {
    ctx.kernels.copy(mine(chosen).slice(1, run.row, run.length),
                     all.slice(1, run.begin, run.length));
  }
}

// An expert takes the first tokens of a sequence that ask for it, by their true positions.
void Router::drop(const LayerContext& ctx, TensorView kept) const {
  const ArenaScope scope(ctx.scratch);
  const auto sequences = ctx.batch.sequences, experts = moe_.experts;
  const auto capacity = expert_capacity(moe_, ctx.context.seq());
  const auto ranks = static_cast<std::int64_t>(ctx.context.size());
  const auto runs = static_cast<std::int64_t>(ctx.context.runs().size());
  const auto mask = kept.reshape({sequences, ctx.batch.seq, experts});
  // How often each expert is asked for in every run of every rank.
  const auto counts = ctx.scratch.push(DType::kF64, {ranks * runs, sequences, experts});
  const auto of_run = [&](std::int64_t rank, std::int64_t run) {
    return counts.slice(0, rank * runs + run, 1).reshape({sequences, experts});
  };
  const auto mine = counts.slice(0, ctx.context.rank() * runs, runs);
  for (std::int64_t r = 0; r < runs; ++r) {
    const auto& run = ctx.context.runs()[static_cast<std::size_t>(r)];
    ctx.kernels.moe_count(of_run(ctx.context.rank(), r), mask.slice(1, run.row, run.length));
  }
  if (ranks > 1) ctx.context.group().all_gather(buffer_view(mine), buffer_view(counts)).wait();
  const auto before = ctx.scratch.push(DType::kF64, {sequences, experts});
  for (std::int64_t r = 0; r < runs; ++r) {
    const auto& run = ctx.context.runs()[static_cast<std::size_t>(r)];
    ctx.kernels.fill_zero(before);
    for (int rank = 0; rank < ranks; ++rank) {
      for (std::int64_t other = 0; other < runs; ++other) {
        const auto& theirs = ctx.context.runs_of(rank)[static_cast<std::size_t>(other)];
        if (theirs.begin < run.begin) ctx.kernels.add(before, of_run(rank, other));
      }
    }
    ctx.kernels.moe_drop(mask.slice(1, run.row, run.length), before, capacity);
  }
}

void Router::choose(const LayerContext& ctx, const Saved& saved) const {
  if (moe_.router == RouterKind::kExpertChoice) {
    return choose_tokens(ctx, saved.chosen, saved.probs);
  }
  ctx.kernels.moe_choose_experts(saved.chosen, saved.probs, ctx.params.router_bias(block_),
                                 moe_.top_k);
  if (moe_.capacity_factor == 0.0) return;
  ctx.kernels.copy(saved.kept, saved.chosen);
  drop(ctx, saved.kept);
}

// What belongs to whole sequences is the same on all cp ranks and is counted by the first.
void Router::count(const LayerContext& ctx, const Saved& saved) const {
  if (ctx.counters == nullptr) return;
  const ArenaScope scope(ctx.scratch);
  const auto sequences = ctx.batch.sequences, experts = moe_.experts;
  const auto kept = ctx.scratch.push(DType::kF64, {sequences, experts});
  ctx.kernels.moe_count(kept, saved.kept.reshape({sequences, ctx.batch.seq, experts}));
  ctx.kernels.sum_rows(ctx.counters->kept(block_), kept);
  if (ctx.context.rank() != 0) return;
  ctx.kernels.sum_rows(ctx.counters->chosen(block_), saved.stats.slice(1, 0, experts));
  const auto losses = ctx.scratch.push(DType::kF64, {sequences, 1});
  ctx.kernels.moe_balance_loss(losses, saved.stats, balance_factor(ctx));
  ctx.kernels.sum_rows(ctx.counters->balance_loss(block_), losses);
  ctx.kernels.sum_rows(ctx.counters->z_loss(block_), saved.stats.slice(1, 2 * experts, 1));
}

Router::Saved Router::forward(const LayerContext& ctx, TensorView x) const {
  const auto n = ctx.tokens(), experts = moe_.experts;
  const auto type = ctx.params.accumulator();
  Saved saved;
  saved.probs = ctx.keep.push(type, {n, experts});
  saved.lse = ctx.keep.push(type, {n});
  saved.chosen = ctx.keep.push(DType::kU8, {n, experts});
  const bool drops = moe_.router != RouterKind::kExpertChoice && moe_.capacity_factor > 0.0;
  saved.kept = drops ? ctx.keep.push(DType::kU8, {n, experts}) : saved.chosen;
  saved.gates = ctx.keep.push(type, {n, experts});
  saved.stats = ctx.keep.push(DType::kF64, {ctx.batch.sequences, 2 * experts + 1});
  {
    const ArenaScope scope(ctx.scratch);
    const auto logits = ctx.scratch.push(type, {n, experts});
    ctx.kernels.moe_logits(logits, x, ctx.params.weight(weight_));
    ctx.kernels.moe_softmax(saved.probs, saved.lse, logits);
  }
  choose(ctx, saved);
  ctx.kernels.moe_gates(saved.gates, saved.probs, saved.chosen, saved.kept, moe_.renormalize);
  ctx.kernels.moe_statistics(saved.stats, saved.chosen, saved.probs, saved.lse);
  if (ctx.context.adds_statistics()) {
    ctx.context.group().all_reduce(buffer_view(saved.stats), comm::ReduceOp::kSum).wait();
  }
  count(ctx, saved);
  return saved;
}

void Router::backward(const LayerContext& ctx, TensorView dx, TensorView dgates, TensorView x,
                      const Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto type = ctx.params.accumulator();
  const auto n = ctx.tokens(), experts = moe_.experts;
  const auto dprobs = ctx.scratch.push(type, {n, experts});
  const auto dlogits = ctx.scratch.push(type, {n, experts});
  ctx.kernels.fill_zero(dprobs);
  ctx.kernels.moe_gates_backward(dprobs, dgates, saved.probs, saved.chosen, saved.kept,
                                 moe_.renormalize);
  if (moe_.aux_loss > 0.0) {
    ctx.kernels.moe_balance_backward(dprobs, saved.stats.slice(1, 0, experts),
                                     moe_.aux_loss * ctx.sequence_scale * balance_factor(ctx));
  }
  const auto seq = static_cast<double>(ctx.context.seq());
  ctx.kernels.moe_softmax_backward(dlogits, dprobs, saved.probs, saved.lse,
                                   moe_.z_loss * ctx.sequence_scale / seq);
  const bool first = ctx.tensor.rank() == 0;
  ctx.kernels.moe_logits_backward(first ? dx : TensorView(), ctx.params.grad(weight_), dlogits, x,
                                  ctx.params.weight(weight_));
}

}  // namespace pg::model
