#include "model/transformer.h"

#include <algorithm>

namespace pg::model {

Transformer::Transformer(const ModelConfig& config, ParamStore& params, Kernels& kernels,
                         std::int64_t seed)
    : config_(config),
      params_(params),
      kernels_(kernels),
      seed_(seed),
      token_table_(params.table().id("embed.tokens.weight")),
      head_(config, params.table()) {
  if (config.position == PositionKind::kLearned) {
    position_table_ = params.table().id("embed.positions.weight");
  }
  for (std::int64_t i = 0; i < config.layers; ++i) blocks_.emplace_back(config, params.table(), i);
}

LayerContext Transformer::context(Arena& arena, const MicroBatch& batch, bool training) const {
  return {kernels_, arena, config_, params_, batch, seed_, training};
}

Stream Transformer::forward(const LayerContext& ctx, std::vector<Block::Saved>& saved) const {
  const auto embedded = ctx.push(config_.hidden);
  const auto branch = ctx.push(config_.hidden);
  kernels_.embedding_forward(embedded, ctx.batch.tokens, ctx.batch.positions,
                             params_.weight(token_table_),
                             position_table_ ? params_.weight(*position_table_) : TensorView());
  kernels_.dropout(embedded, ctx.dropout("embed"));

  Stream stream{embedded, {}};
  saved.resize(blocks_.size());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    stream = blocks_[i].forward(ctx, saved[i], stream, branch);
  }
  return stream;
}

double Transformer::forward_backward(Arena& arena, const MicroBatch& batch, double loss_scale,
                                     const PlaceDone& place_done) {
  const ArenaScope scope(arena);
  const auto ctx = context(arena, batch, /*training=*/true);
  const auto done = [&](std::int64_t place) {
    if (place_done) place_done(place);
  };
  const auto dr =
      ctx.push(config_.hidden);  // the gradient of the residual stream, all the way down

  std::vector<Block::Saved> saved;
  const auto stream = forward(ctx, saved);
  const double loss = head_.loss(ctx, dr, stream, loss_scale);
  done(config_.layers + 1);
  for (std::int64_t i = config_.layers - 1; i >= 0; --i) {
    blocks_[static_cast<std::size_t>(i)].backward(ctx, dr, saved[static_cast<std::size_t>(i)]);
    done(1 + i);
  }
  kernels_.dropout(dr, ctx.dropout("embed"));
  kernels_.embedding_backward(params_.grad(token_table_),
                              position_table_ ? params_.grad(*position_table_) : TensorView(), dr,
                              batch.tokens, batch.positions);
  done(0);
  return loss;
}

double Transformer::loss(Arena& arena, const MicroBatch& batch) {
  const ArenaScope scope(arena);
  const auto ctx = context(arena, batch, /*training=*/false);
  std::vector<Block::Saved> saved;
  return head_.loss(ctx, {}, forward(ctx, saved), 0.0);
}

void Transformer::logits(Arena& arena, const MicroBatch& batch, TensorView logits) {
  const ArenaScope scope(arena);
  const auto ctx = context(arena, batch, /*training=*/false);
  std::vector<Block::Saved> saved;
  head_.logits(ctx, logits, forward(ctx, saved));
}

bool is_lookup_only(const ParamSpec& spec, const ModelConfig& config) {
  return spec.name == "embed.positions.weight" ||
         (spec.name == "embed.tokens.weight" && !config.tie_embeddings);
}

double model_flops_per_token(const ModelConfig& config, std::int64_t seq) {
  double weights = 0.0;
  const ParamTable table(config);
  for (const auto& spec : table.specs()) {
    if (spec.shape.size() == 2 && !is_lookup_only(spec, config)) {
      weights += static_cast<double>(spec.elements());
    }
  }
  const auto t = static_cast<double>(seq);
  double seen = (t + 1.0) / 2.0;
  if (config.window > 0 && config.window < seq) {
    const auto w = static_cast<double>(config.window);
    seen = (w * (w + 1.0) / 2.0 + (t - w) * w) / t;
  }
  const double attention =
      12.0 * seen * static_cast<double>(config.q_width()) * static_cast<double>(config.layers);
  return 6.0 * weights + attention;
}

std::size_t activation_bytes(const ModelConfig& config, DType compute, std::int64_t sequences,
                             std::int64_t seq) {
  const ParamTable table(config);
  ParamStore params(table, compute, Buffer::Kind::kDry);
  const auto kernels = make_dry_kernels();
  Transformer model(config, params, *kernels, /*seed=*/0);
  auto arena = Arena::dry();
  const auto n = sequences * seq;
  MicroBatch batch;
  batch.sequences = sequences;
  batch.seq = seq;
  for (auto* view : {&batch.tokens, &batch.positions, &batch.targets}) {
    *view = TensorView(nullptr, DType::kI32, {n});
  }
  model.forward_backward(arena, batch, 1.0);
  return arena.high_water();
}

}  // namespace pg::model
