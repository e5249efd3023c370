#include "model/layers/experts.h"

namespace pg::model {

Experts::Experts(const ModelConfig& config, const ParamLayout& layout, const std::string& prefix)
    : gated_(config.activation == Activation::kSwiGlu),
      ffn_(config.moe.ffn),
      wide_(product(layout, prefix, gated_ ? ".gate" : ".up", ".up", config.bias)),
      down_(product(layout, prefix, ".down", ".down", config.bias)) {}

Experts::Product Experts::product(const ParamLayout& layout, const std::string& prefix,
                                  const char* first, const char* last, bool bias) const {
  Product p;
  const auto& table = layout.table();
  for (auto e = layout.first_expert(); e < layout.first_expert() + layout.experts(); ++e) {
    const auto pack = [&](const char* kind) {
      const auto name = [&](const char* part) {
        return fmt::format("{}.{}{}.{}", prefix, e, part, kind);
      };
      return Product::Pack{table.id(name(first)), table.id(name(last))};
    };
    p.weights.push_back(pack("weight"));
    if (bias) p.biases.push_back(pack("bias"));
  }
  for (auto id = p.weights[0].first; id <= p.weights[0].last; ++id) p.out += layout.part(id).rows;
  return p;
}

namespace {

template <class Packs>
std::vector<TensorView> weights_of(const ParamStore& params, const Packs& packs) {
  std::vector<TensorView> views;
  for (const auto& pack : packs) views.push_back(params.weight_pack(pack.first, pack.last));
  return views;
}

template <class Packs>
std::vector<TensorView> grads_of(const ParamStore& params, const Packs& packs) {
  std::vector<TensorView> views;
  for (const auto& pack : packs) views.push_back(params.grad_pack(pack.first, pack.last));
  return views;
}

}  // namespace

void Experts::activate(const LayerContext& ctx, TensorView hidden, TensorView wide) const {
  if (gated_) {
    ctx.kernels.swiglu_forward(hidden, wide.slice(1, 0, ffn_), wide.slice(1, ffn_, ffn_));
  } else {
    ctx.kernels.gelu_forward(hidden, wide);
  }
}

Experts::Saved Experts::forward(const LayerContext& ctx, TensorView y, TensorView x,
                                std::span<const std::int64_t> begin) const {
  const ArenaScope scope(ctx.scratch);
  const auto rows = x.dim(0);
  const auto& p = ctx.params;
  Saved saved;
  saved.wide = ctx.push_rows(ctx.keep, rows, wide_.out);
  ctx.kernels.grouped_linear_forward(saved.wide, x, weights_of(p, wide_.weights),
                                     weights_of(p, wide_.biases), begin);
  const auto hidden = ctx.push_rows(ctx.keep_unless_selective(), rows, ffn_);
  activate(ctx, hidden, saved.wide);
  if (!y.empty()) {
    // A bias is added once, by the first tp rank.
    const bool first = ctx.tensor.rank() == 0;
    ctx.kernels.grouped_linear_forward(
        y, hidden, weights_of(p, down_.weights),
        first ? weights_of(p, down_.biases) : std::vector<TensorView>(), begin);
  }
  if (!ctx.selective) saved.hidden = hidden;
  return saved;
}

void Experts::backward(const LayerContext& ctx, TensorView dx, TensorView dy, TensorView x,
                       const Saved& saved, std::span<const std::int64_t> begin) const {
  const ArenaScope scope(ctx.scratch);
  const auto rows = x.dim(0);
  const auto& p = ctx.params;
  const auto d_wide = ctx.push_rows(ctx.scratch, rows, wide_.out);
  {
    const ArenaScope inner(ctx.scratch);
    const auto d_hidden = ctx.push_rows(ctx.scratch, rows, ffn_);
    auto hidden = saved.hidden;
    if (hidden.empty()) {
      hidden = ctx.push_rows(ctx.scratch, rows, ffn_);
      activate(ctx, hidden, saved.wide);
    }
    ctx.kernels.grouped_linear_backward_weight(grads_of(p, down_.weights),
                                               grads_of(p, down_.biases), dy, hidden, begin);
    ctx.kernels.grouped_linear_backward_input(d_hidden, dy, weights_of(p, down_.weights), begin);
    if (gated_) {
      ctx.kernels.swiglu_backward(d_wide.slice(1, 0, ffn_), d_wide.slice(1, ffn_, ffn_), d_hidden,
                                  saved.wide.slice(1, 0, ffn_), saved.wide.slice(1, ffn_, ffn_));
    } else {
      ctx.kernels.gelu_backward(d_wide, d_hidden, saved.wide);
    }
  }
  ctx.kernels.grouped_linear_backward_weight(grads_of(p, wide_.weights), grads_of(p, wide_.biases),
                                             d_wide, x, begin);
  ctx.kernels.grouped_linear_backward_input(dx, d_wide, weights_of(p, wide_.weights), begin);
}

}  // namespace pg::model
