// A run of layers that one pipeline stage computes: blocks, before them the embedding on the first
// chunk, behind them the head on the last; explicit forward and backward over a micro-batch.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model/layers/block.h"
#include "model/layers/context.h"
#include "model/layers/lm_head.h"
#include "model/pipeline/stages.h"

namespace pg::model {

// What a chunk says about the parameters it is about to use or has finished with; ZeRO acts on it.
class PlaceUse {
 public:
  virtual ~PlaceUse() = default;
  virtual void micro_batch(bool /*last*/) {}  // what follows is of the step's last one, or is not
  virtual void need_weights(std::int64_t /*place*/, std::int64_t /*next, or -1*/) {}
  virtual void begin_grads(std::int64_t /*place*/) {}
  virtual void grads_done(std::int64_t /*place*/) {}  // for this micro-batch
};

struct RecomputePlan {
  Recompute mode = Recompute::kNone;
  std::int64_t layers = 0;  // only the model's first ones; 0: all

  Recompute of(std::int64_t layer) const {
    return layers == 0 || layer < layers ? mode : Recompute::kNone;
  }
};

class ModelChunk {
 public:
  // `config`: as this rank's layers see it (ParamLayout::rank_config).
  ModelChunk(const ModelConfig& config, const ParamLayout& layout, const StagePart& part,
             const RecomputePlan& recompute);

  bool head() const { return part_.head; }

  // What a micro-batch leaves for its backward, on the context's `keep` arena.
  struct Saved {
    std::vector<Block::Saved> blocks;
    std::vector<TensorView> inputs;  // of blocks that are fully recomputed
    TensorView dr;                   // [rows,C], with a head: the gradient at its input
  };

  // in[rows,C]: the stream from the chunk before; empty when this one embeds. out[rows,C]: the
  // stream to the next; unused with a head, which adds its loss, the sum over counted tokens in
  // nats, to ctx.loss, and in training the gradients of loss_scale times it. `again` holds what
  // full recomputation makes, and is released.
  void forward(const LayerContext& ctx, Arena& again, Saved& saved, TensorView in, TensorView out,
               double loss_scale, PlaceUse& use) const;
  // dr[rows,C]: in, the gradient of the stream out; out, that of the stream in. Parameter gradients
  // are added.
  void backward(const LayerContext& ctx, Arena& again, const Saved& saved, TensorView dr,
                PlaceUse& use) const;
  // logits[N, vocabulary rows of this tp rank] of a chunk with a head.
  void logits(const LayerContext& ctx, Arena& again, TensorView in, TensorView logits,
              PlaceUse& use) const;

 private:
  std::size_t n_blocks() const { return blocks_.size(); }
  std::int64_t place_of(std::size_t block) const;
  std::int64_t experts_of(std::size_t block) const;  // their place; -1: none
  // The weights of a block and of its experts, and then those of `next`, are needed.
  void need_block(std::size_t block, std::int64_t next, PlaceUse& use) const;
  Stream run(const LayerContext& ctx, Arena& again, Saved& saved, TensorView in, TensorView branch,
             TensorView carry, PlaceUse& use) const;
  TensorView embed(const LayerContext& ctx, PlaceUse& use) const;
  void embed_backward(const LayerContext& ctx, TensorView dr, PlaceUse& use) const;
  LayerContext of_block(const LayerContext& ctx, std::size_t block) const;
  bool full(std::size_t block) const;
  // Backward of the head's own use of the token table, when it is tied, ends with the embedding's.
  bool shares_tokens() const { return tied_ && part_.head; }

  StagePart part_;
  RecomputePlan recompute_;
  bool tied_;
  std::int64_t head_place_, position_place_, first_experts_place_;
  std::vector<bool> has_experts_;  // by block
  std::size_t token_table_;
  std::optional<std::size_t> position_table_;
  VocabRows vocab_;
  std::vector<Block> blocks_;
  std::optional<LmHead> head_;
};

}  // namespace pg::model
