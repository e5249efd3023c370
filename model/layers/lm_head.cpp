#include "model/layers/lm_head.h"

#include <algorithm>

#include "model/buffer_view.h"

namespace pg::model {

namespace {

// Tokens a chunk, in equal chunks, so that products of one shape serve them all.
std::int64_t chunk_tokens(std::int64_t tokens, std::int64_t row_bytes, std::int64_t bytes) {
  const auto most = std::max<std::int64_t>(1, bytes / row_bytes);
  const auto chunks = (tokens + most - 1) / most;
  return (tokens + chunks - 1) / chunks;
}

}  // namespace

LmHead::LmHead(const ModelConfig& config, const ParamLayout& layout)
    : norm_(config, layout, "final_norm"),
      table_(layout.table().id(config.tie_embeddings ? "embed.tokens.weight" : "lm_head.weight")),
      rows_(vocab_rows(config.vocab, layout.sharding().tp, layout.sharding().tp_rank)) {}

void LmHead::cross_entropy(const LayerContext& ctx, TensorView losses, TensorView dlogits,
                           TensorView logits, TensorView targets, double scale) const {
  if (ctx.tensor.size() == 1) {
    ctx.kernels.cross_entropy(losses, dlogits, logits, targets, scale);
    return;
  }
  const ArenaScope scope(ctx.scratch);
  const auto n = logits.dim(0);
  const auto all = ctx.scratch.push(DType::kF64, {ctx.tensor.size(), n, 3});
  const auto merged = ctx.scratch.push(DType::kF64, {n, 2});
  const auto mine = all.slice(0, ctx.tensor.rank(), 1).reshape({n, 3});
  ctx.kernels.cross_entropy_stats(mine, logits, targets, rows_.begin);
  ctx.tensor.group().all_gather(buffer_view(mine), buffer_view(all)).wait();
  ctx.kernels.cross_entropy_combine(losses, merged, all, targets);
  if (!dlogits.empty()) {
    ctx.kernels.cross_entropy_gradient(dlogits, logits, merged, targets, rows_.begin, scale);
  }
}

void LmHead::loss(const LayerContext& ctx, TensorView dr, const Stream& stream,
                  double loss_scale) const {
  const ArenaScope scope(ctx.scratch);
  const auto n = ctx.tokens();
  const auto accumulator = ctx.params.accumulator();
  const bool backward = !dr.empty();

  auto norm_ctx = ctx.keeping_in(ctx.scratch);
  const auto normed = ctx.push_stream(ctx.scratch);
  const auto dx = backward ? ctx.push_stream(ctx.scratch) : TensorView();
  const auto norm_saved = norm_.forward(norm_ctx, normed, stream);
  const auto losses = ctx.scratch.push(DType::kF64, {n});
  {
    const ArenaScope inner(ctx.scratch);
    const auto x = ctx.tensor.gather(ctx.scratch, normed);
    const auto dx_partial = backward ? ctx.tensor.partial(ctx.scratch, dx) : TensorView();

    // The same chunks on every tp rank, whatever its share of an uneven vocabulary.
    const auto preferred = ctx.kernels.preferred();
    const auto row_bytes = rows_.allocated * static_cast<std::int64_t>(dtype_size(accumulator));
    const auto rows = chunk_tokens(n, row_bytes, preferred.logits_bytes);
    const auto pitch = preferred.row_pitch(rows_.rows);
    const auto push = [&](DType type) {
      return ctx.scratch.push(type, {rows, pitch}).slice(1, 0, rows_.rows);
    };
    const auto logits = push(accumulator);
    // Where the types agree, the gradient takes the logits' place.
    const bool in_place = ctx.params.compute() == accumulator;
    const auto dlogits = !backward ? TensorView() : in_place ? logits : push(ctx.params.compute());
    const auto w = ctx.params.weight(table_);
    for (std::int64_t begin = 0; begin < n; begin += rows) {
      const auto count = std::min(rows, n - begin);
      const auto part = [&](TensorView view) {
        return view.empty() ? view : view.slice(0, begin, count);
      };
      const auto head = [&](TensorView view) {
        return view.empty() ? view : view.slice(0, 0, count);
      };
      ctx.kernels.linear_forward(head(logits), part(x), w, {});
      cross_entropy(ctx, part(losses), head(dlogits), head(logits), part(ctx.batch.targets),
                    loss_scale);
      if (!backward) continue;
      ctx.kernels.linear_backward_weight(ctx.params.grad(table_), {}, head(dlogits), part(x));
      ctx.kernels.linear_backward_input(part(dx_partial), head(dlogits), w, /*accumulate=*/false);
    }
    if (backward) ctx.tensor.reduce(dx, dx_partial);
  }
  if (backward) {
    ctx.kernels.fill_zero(dr);
    norm_.backward(ctx, dr, dx, norm_saved);
  }
  ctx.kernels.sum(ctx.loss, losses);
}

void LmHead::logits(const LayerContext& ctx, TensorView logits, const Stream& stream) const {
  const ArenaScope scope(ctx.scratch);
  const auto x = ctx.push_stream(ctx.scratch);
  norm_.forward(ctx.keeping_in(ctx.scratch), x, stream);
  ctx.kernels.linear_forward(logits, ctx.tensor.gather(ctx.scratch, x), ctx.params.weight(table_),
                             {});
}

}  // namespace pg::model
