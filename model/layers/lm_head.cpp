#include "model/layers/lm_head.h"

#include <algorithm>

namespace pg::model {

namespace {

// Tokens a chunk: about 64 MiB of logits, in equal chunks, so that products of one shape serve them
// all.
std::int64_t chunk_tokens(std::int64_t tokens, std::int64_t vocab, DType type) {
  constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
  const auto row = vocab * static_cast<std::int64_t>(dtype_size(type));
  const auto most = std::max<std::int64_t>(1, kChunkBytes / row);
  const auto chunks = (tokens + most - 1) / most;
  return (tokens + chunks - 1) / chunks;
}

}  // namespace

LmHead::LmHead(const ModelConfig& config, const ParamTable& table)
    : norm_(config, table, "final_norm"),
      table_(table.id(config.tie_embeddings ? "embed.tokens.weight" : "lm_head.weight")) {}

double LmHead::loss(const LayerContext& ctx, TensorView dr, const Stream& stream,
                    double loss_scale) const {
  const ArenaScope scope(ctx.arena);
  const auto& c = ctx.config;
  const auto n = ctx.tokens();
  const auto accumulator = ctx.params.accumulator();
  const bool backward = !dr.empty();

  const auto x = ctx.push(c.hidden);
  const auto dx = backward ? ctx.push(c.hidden) : TensorView();
  const auto norm_saved = norm_.forward(ctx, x, stream);
  const auto losses = ctx.arena.push(DType::kF64, {n});

  const auto rows = chunk_tokens(n, c.vocab, accumulator);
  const auto logits = ctx.arena.push(accumulator, {rows, c.vocab});
  // Where the types agree, the gradient takes the logits' place.
  const bool in_place = ctx.params.compute() == accumulator;
  const auto dlogits = !backward  ? TensorView()
                       : in_place ? logits
                                  : ctx.arena.push(ctx.params.compute(), {rows, c.vocab});
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
    ctx.kernels.cross_entropy(part(losses), head(dlogits), head(logits), part(ctx.batch.targets),
                              loss_scale);
    if (!backward) continue;
    ctx.kernels.linear_backward_weight(ctx.params.grad(table_), {}, head(dlogits), part(x));
    ctx.kernels.linear_backward_input(part(dx), head(dlogits), w, /*accumulate=*/false);
  }
  if (backward) {
    ctx.kernels.fill_zero(dr);
    norm_.backward(ctx, dr, dx, norm_saved);
  }
  return ctx.kernels.sum(losses);
}

void LmHead::logits(const LayerContext& ctx, TensorView logits, const Stream& stream) const {
  const ArenaScope scope(ctx.arena);
  const auto x = ctx.push(ctx.config.hidden);
  norm_.forward(ctx, x, stream);
  ctx.kernels.linear_forward(logits, x, ctx.params.weight(table_), {});
}

}  // namespace pg::model
