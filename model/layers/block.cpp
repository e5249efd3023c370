#include "model/layers/block.h"

namespace pg::model {

namespace {

// The gradient of a branch is the stream's, through the branch's dropout; without dropout no copy
// is made.
TensorView branch_gradient(const LayerContext& ctx, TensorView dr, const std::string& site) {
  const auto dropout = ctx.dropout(site);
  if (dropout.rate == 0.0) return dr;
  const auto dx = ctx.push_stream(ctx.scratch);
  ctx.kernels.copy(dx, dr);
  ctx.kernels.dropout(dx, dropout);
  return dx;
}

}  // namespace

Block::Block(const ModelConfig& config, const ParamLayout& layout, std::int64_t index)
    : name_(fmt::format("blocks.{}", index)),
      attention_norm_(config, layout, name_ + ".attention_norm"),
      mlp_norm_(config, layout, name_ + ".mlp_norm"),
      attention_(config, layout, name_ + ".attention") {
  if (config.has_experts(index)) {
    moe_.emplace(config, layout, index);
  } else {
    mlp_.emplace(config, layout, name_ + ".mlp");
  }
}

void Block::forward_attention(const LayerContext& ctx, Saved& saved, const Stream& stream,
                              TensorView branch) const {
  const ArenaScope scope(ctx.scratch);
  const auto in = ctx.push_stream(ctx.keep_unless_selective());
  saved.attention_norm = attention_norm_.forward(ctx, in, stream);
  saved.attention = attention_.forward(ctx, branch, in);
  ctx.kernels.dropout(branch, ctx.dropout(name_ + ".attention"));
  if (!ctx.selective) saved.attention_in = in;
}

Stream Block::forward(const LayerContext& ctx, Saved& saved, const Stream& stream,
                      TensorView branch) const {
  forward_attention(ctx, saved, stream, branch);
  const ArenaScope scope(ctx.scratch);
  const auto in = ctx.push_stream(ctx.keep_unless_selective());
  saved.mlp_norm = mlp_norm_.forward(ctx, in, {saved.attention_norm.residual, branch});
  if (moe_) {
    saved.moe = moe_->forward(ctx, branch, in);
  } else {
    saved.mlp = mlp_->forward(ctx, branch, in);
  }
  ctx.kernels.dropout(branch, ctx.dropout(name_ + ".mlp"));
  if (!ctx.selective) saved.mlp_in = in;
  return {saved.mlp_norm.residual, branch};
}

void Block::remake(const LayerContext& ctx, Saved& saved, const Stream& stream,
                   TensorView branch) const {
  forward_attention(ctx, saved, stream, branch);
  saved.mlp_in = ctx.push_stream(ctx.keep);
  saved.mlp_norm = mlp_norm_.forward(ctx, saved.mlp_in, {saved.attention_norm.residual, branch});
  if (moe_) {
    saved.moe = moe_->remake(ctx, saved.mlp_in);
  } else {
    saved.mlp = mlp_->remake(ctx, saved.mlp_in);
  }
}

void Block::backward(const LayerContext& ctx, TensorView dr, const Saved& saved) const {
  const auto half = [&](const char* site, const auto& layer, const auto& layer_saved,
                        const Norm& norm, const Norm::Saved& norm_saved, TensorView in) {
    const ArenaScope scope(ctx.scratch);
    const auto d_in = ctx.push_stream(ctx.scratch);
    const auto dy = branch_gradient(ctx, dr, name_ + site);
    if (in.empty()) {
      in = ctx.push_stream(ctx.scratch);
      norm.again(ctx, in, norm_saved);
    }
    layer.backward(ctx, d_in, dy, in, layer_saved);
    norm.backward(ctx, dr, d_in, norm_saved);
  };
  if (moe_) {
    half(".mlp", *moe_, saved.moe, mlp_norm_, saved.mlp_norm, saved.mlp_in);
  } else {
    half(".mlp", *mlp_, saved.mlp, mlp_norm_, saved.mlp_norm, saved.mlp_in);
  }
  half(".attention", attention_, saved.attention, attention_norm_, saved.attention_norm,
       saved.attention_in);
}

}  // namespace pg::model
