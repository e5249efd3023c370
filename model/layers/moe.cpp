#include "model/layers/moe.h"

#include <vector>

#include "model/buffer_view.h"

namespace pg::model {

namespace {

std::string prefix(std::int64_t block) {
  return fmt::format("blocks.{}.moe", block);
}

}  // namespace

Moe::Moe(const ModelConfig& config, const ParamLayout& layout, std::int64_t block)
    : router_(config, layout, block), experts_(config, layout, prefix(block) + ".experts") {
  if (config.moe.shared_experts > 0) shared_.emplace(config, layout, prefix(block) + ".shared");
}

Moe::Saved Moe::run(const LayerContext& ctx, TensorView x) const {
  const auto width = ctx.config.hidden;
  Saved saved;
  saved.routing = router_.forward(ctx, x);

  // 1. Tokens in order by expert, one copy for each that wants them.
  saved.rows = ctx.keep.push(DType::kI32, {ctx.tokens(), ctx.config.moe.experts});
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ctx.config.moe.experts));
  ctx.kernels.moe_rows(saved.rows, counts, saved.routing.kept);
  saved.routes = ctx.experts.routes(counts);
  saved.arrived = ctx.push_rows(ctx.keep, saved.routes.arrived(), width);

  // 2. To the experts, through them, and back.
  const ArenaScope scope(ctx.scratch);
  if (ctx.experts.size() == 1) {
    ctx.kernels.moe_dispatch(saved.arrived, x, saved.rows, {});
  } else {
    const ArenaScope inner(ctx.scratch);
    const auto leaving = ctx.push_rows(ctx.scratch, saved.routes.sent, width);
    ctx.kernels.moe_dispatch(leaving, x, saved.rows, {});
    ctx.experts.to_experts(ctx.kernels, ctx.scratch, saved.arrived, leaving, saved.routes);
  }
  saved.returned = ctx.push_rows(ctx.keep, saved.routes.sent, width);
  if (ctx.experts.size() == 1) {
    saved.experts = experts_.forward(ctx, saved.returned, saved.arrived, saved.routes.begin);
  } else {
    const auto out = ctx.push_rows(ctx.scratch, saved.routes.arrived(), width);
    saved.experts = experts_.forward(ctx, out, saved.arrived, saved.routes.begin);
    ctx.experts.to_tokens(ctx.kernels, ctx.scratch, saved.returned, out, saved.routes);
  }
  return saved;
}

Moe::Saved Moe::forward(const LayerContext& ctx, TensorView y, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  const auto partial = ctx.tensor.partial(ctx.scratch, y);
  const auto whole = ctx.tensor.gather(ctx.scratch, x);
  auto saved = run(ctx, whole);
  if (shared_) saved.shared = shared_->forward_part(ctx, partial, whole);
  ctx.kernels.moe_combine(partial, saved.returned, saved.rows, saved.routing.gates,
                          /*accumulate=*/shared_.has_value());
  ctx.tensor.reduce(y, partial);
  return saved;
}

Moe::Saved Moe::remake(const LayerContext& ctx, TensorView x) const {
  const ArenaScope scope(ctx.scratch);
  const auto whole = ctx.tensor.gather(ctx.scratch, x);
  auto saved = run(ctx, whole);
  if (shared_) saved.shared = shared_->remake_part(ctx, whole);
  return saved;
}

void Moe::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                   const Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto width = ctx.config.hidden;
  const auto partial = ctx.tensor.partial(ctx.scratch, dx);
  const auto whole = ctx.tensor.gather(ctx.scratch, x);
  const auto d_whole = ctx.tensor.gather(ctx.scratch, dy);

  if (shared_) shared_->backward_part(ctx, partial, d_whole, whole, saved.shared);
  {
    // 1. The outputs' gradients, by their gates, to the experts that made them.
    const ArenaScope inner(ctx.scratch);
    const auto& routes = saved.routes;
    const bool alone = ctx.experts.size() == 1;
    const auto d_sent = ctx.push_rows(ctx.scratch, routes.sent, width);
    ctx.kernels.moe_dispatch(d_sent, d_whole, saved.rows, saved.routing.gates);
    auto d_rows = d_sent;
    if (!alone) {
      d_rows = ctx.push_rows(ctx.scratch, routes.arrived(), width);
      ctx.experts.to_experts(ctx.kernels, ctx.scratch, d_rows, d_sent, routes);
    }
    // 2. Through the experts, in the same memory, and back.
    experts_.backward(ctx, d_rows, d_rows, saved.arrived, saved.experts, routes.begin);
    if (!alone) ctx.experts.to_tokens(ctx.kernels, ctx.scratch, d_sent, d_rows, routes);
    ctx.kernels.moe_combine(partial, d_sent, saved.rows, {},
                            /*accumulate=*/shared_.has_value());
  }
  // 3. The gates' gradients, of whole outputs.
  const auto d_gates =
      ctx.scratch.push(ctx.params.accumulator(), {ctx.tokens(), ctx.config.moe.experts});
  ctx.kernels.moe_gate_gradient(d_gates, d_whole, saved.returned, saved.rows);
  if (ctx.tensor.size() > 1) {
    ctx.tensor.group().all_reduce(buffer_view(d_gates), comm::ReduceOp::kSum).wait();
  }
  router_.backward(ctx, partial, d_gates, whole, saved.routing);
  ctx.tensor.reduce(dx, partial);
}

}  // namespace pg::model
