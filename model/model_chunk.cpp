#include "model/model_chunk.h"

#include "comm/profile_range.h"

namespace pg::model {

ModelChunk::ModelChunk(const ModelConfig& config, const ParamLayout& layout, const StagePart& part,
                       const RecomputePlan& recompute)
    : part_(part),
      recompute_(recompute),
      tied_(config.tie_embeddings),
      head_place_(ParamTable::head_place(config)),
      position_place_(ParamTable::position_place(config)),
      first_experts_place_(ParamTable::experts_place(config, part.first_layer)),
      token_table_(layout.table().id("embed.tokens.weight")),
      vocab_(vocab_rows(config.vocab, layout.sharding().tp, layout.sharding().tp_rank)) {
  if (config.position == PositionKind::kLearned) {
    position_table_ = layout.table().id("embed.positions.weight");
  }
  for (std::int64_t i = 0; i < part.layers; ++i) {
    blocks_.emplace_back(config, layout, part.first_layer + i);
    has_experts_.push_back(config.has_experts(part.first_layer + i));
  }
  if (part.head) head_.emplace(config, layout);
}

std::int64_t ModelChunk::place_of(std::size_t block) const {
  return ParamTable::block_place(part_.first_layer + static_cast<std::int64_t>(block));
}

std::int64_t ModelChunk::experts_of(std::size_t block) const {
  return has_experts_[block] ? first_experts_place_ + static_cast<std::int64_t>(block) : -1;
}

void ModelChunk::need_block(std::size_t block, std::int64_t next, PlaceUse& use) const {
  const auto experts = experts_of(block);
  use.need_weights(place_of(block), experts >= 0 ? experts : next);
  if (experts >= 0) use.need_weights(experts, next);
}

bool ModelChunk::full(std::size_t block) const {
  return recompute_.of(part_.first_layer + static_cast<std::int64_t>(block)) == Recompute::kFull;
}

LayerContext ModelChunk::of_block(const LayerContext& ctx, std::size_t block) const {
  auto its = ctx.keeping_in(ctx.keep);
  its.selective =
      recompute_.of(part_.first_layer + static_cast<std::int64_t>(block)) == Recompute::kSelective;
  return its;
}

TensorView ModelChunk::embed(const LayerContext& ctx, PlaceUse& use) const {
  if (position_table_) use.need_weights(position_place_, -1);
  use.need_weights(ParamTable::kTokenPlace, blocks_.empty() ? -1 : place_of(0));
  const auto x = ctx.push_stream(ctx.keep);
  const ArenaScope scope(ctx.scratch);
  const auto partial = ctx.tensor.partial(ctx.scratch, x);
  // Each rank looks up its rows of the vocabulary; positions are added once.
  const bool positions = position_table_ && ctx.tensor.rank() == 0;
  ctx.kernels.embedding_forward(
      partial, ctx.batch.tokens, ctx.batch.positions, ctx.params.weight(token_table_),
      positions ? ctx.params.weight(*position_table_) : TensorView(), vocab_.begin);
  ctx.tensor.reduce(x, partial);
  ctx.kernels.dropout(x, ctx.dropout("embed"));
  return x;
}

void ModelChunk::embed_backward(const LayerContext& ctx, TensorView dr, PlaceUse& use) const {
  const ArenaScope scope(ctx.scratch);
  ctx.kernels.dropout(dr, ctx.dropout("embed"));
  use.begin_grads(ParamTable::kTokenPlace);
  if (position_table_) use.begin_grads(position_place_);
  ctx.kernels.embedding_backward(ctx.params.grad(token_table_),
                                 position_table_ ? ctx.params.grad(*position_table_) : TensorView(),
                                 ctx.tensor.gather(ctx.scratch, dr), ctx.batch.tokens,
                                 ctx.batch.positions, vocab_.begin);
  use.grads_done(ParamTable::kTokenPlace);
  if (position_table_) use.grads_done(position_place_);
}

Stream ModelChunk::run(const LayerContext& ctx, Arena& again, Saved& saved, TensorView in,
                       TensorView branch, TensorView carry, PlaceUse& use) const {
  Stream stream{part_.embeds ? embed(ctx, use) : in, {}};
  saved.blocks.assign(n_blocks(), {});
  saved.inputs.assign(n_blocks(), {});
  for (std::size_t i = 0; i < n_blocks(); ++i) {
    const auto next = i + 1 < n_blocks() ? place_of(i + 1) : part_.head ? head_place_ : -1;
    const comm::ProfileRange range("forward of block",
                                   part_.first_layer + static_cast<std::int64_t>(i));
    need_block(i, next, use);
    if (!full(i)) {
      stream = blocks_[i].forward(of_block(ctx, i), saved.blocks[i], stream, branch);
      continue;
    }
    // Only the block's input stays. The same addition, and rounding, as the norm's.
    auto input = stream.residual;
    if (!stream.branch.empty()) {
      input = ctx.push_stream(ctx.keep);
      ctx.kernels.copy(input, stream.residual);
      ctx.kernels.add(input, stream.branch);
    }
    saved.inputs[i] = input;
    Block::Saved dropped;
    const ArenaScope scope(again);
    const auto end = blocks_[i].forward(ctx.keeping_in(again), dropped, {input, {}}, branch);
    ctx.kernels.copy(carry, end.residual);
    stream = {carry, branch};
  }
  return stream;
}

void ModelChunk::forward(const LayerContext& ctx, Arena& again, Saved& saved, TensorView in,
                         TensorView out, double loss_scale, PlaceUse& use) const {
  const ArenaScope scope(ctx.scratch);
  const auto branch = ctx.push_stream(ctx.scratch);
  const auto carry = full(0) ? ctx.push_stream(ctx.scratch) : TensorView();
  const auto stream = run(ctx, again, saved, in, branch, carry, use);
  if (!part_.head) {
    ctx.kernels.copy(out, stream.residual);
    if (!stream.branch.empty()) ctx.kernels.add(out, stream.branch);
    return;
  }
  use.need_weights(head_place_, shares_tokens() ? ParamTable::kTokenPlace : -1);
  if (shares_tokens()) use.need_weights(ParamTable::kTokenPlace, -1);
  if (!ctx.training) {
    head_->loss(ctx, {}, stream, 0.0);
    return;
  }

  const comm::ProfileRange range("head and loss");
  use.begin_grads(head_place_);
  if (shares_tokens()) use.begin_grads(ParamTable::kTokenPlace);
  saved.dr = ctx.push_stream(ctx.keep);
  head_->loss(ctx, saved.dr, stream, loss_scale);
  use.grads_done(head_place_);
  if (shares_tokens() && !part_.embeds) use.grads_done(ParamTable::kTokenPlace);
}

void ModelChunk::backward(const LayerContext& ctx, Arena& again, const Saved& saved, TensorView dr,
                          PlaceUse& use) const {
  const ArenaScope scope(ctx.scratch);
  for (std::size_t i = n_blocks(); i-- > 0;) {
    const comm::ProfileRange range("backward of block",
                                   part_.first_layer + static_cast<std::int64_t>(i));
    need_block(i, i > 0 ? place_of(i - 1) : -1, use);
    use.begin_grads(place_of(i));
    if (experts_of(i) >= 0) use.begin_grads(experts_of(i));
    const ArenaScope inner(ctx.scratch);
    if (full(i)) {
      const ArenaScope held(again);
      Block::Saved made;
      const auto branch = ctx.push_stream(ctx.scratch);
      blocks_[i].remake(ctx.again_in(again), made, {saved.inputs[i], {}}, branch);
      blocks_[i].backward(ctx, dr, made);
    } else {
      blocks_[i].backward(ctx, dr, saved.blocks[i]);
    }
    if (experts_of(i) >= 0) use.grads_done(experts_of(i));
    use.grads_done(place_of(i));
  }
  if (part_.embeds) embed_backward(ctx, dr, use);
}

void ModelChunk::logits(const LayerContext& ctx, Arena& again, TensorView in, TensorView logits,
                        PlaceUse& use) const {
  const ArenaScope scope(ctx.scratch);
  const auto branch = ctx.push_stream(ctx.scratch);
  const auto carry = full(0) ? ctx.push_stream(ctx.scratch) : TensorView();
  Saved saved;
  const auto stream = run(ctx, again, saved, in, branch, carry, use);
  use.need_weights(head_place_, -1);
  if (shares_tokens()) use.need_weights(ParamTable::kTokenPlace, -1);
  head_->logits(ctx, logits, stream);
}

}  // namespace pg::model
