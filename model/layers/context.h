// What every layer gets: where to compute, where to put activations, the parameters, and the
// micro-batch. Letters as in kernels/kernels.h: N = B*T tokens, C hidden, F feed-forward width, V
// vocabulary. Under context parallelism T counts the positions of this rank, and the whole sequence
// has cp * T. The stream is [rows, C]: rows = N, or N / tp under sequence parallelism.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/arena.h"
#include "model/kernels/kernels.h"
#include "model/layers/context_parallel.h"
#include "model/layers/expert_parallel.h"
#include "model/layers/tensor_parallel.h"
#include "model/moe_counters.h"
#include "model/param_store.h"

namespace pg::model {

struct MicroBatch {
  std::int64_t sequences = 0, seq = 0;    // B, T
  TensorView tokens, positions, targets;  // int32 [N]; target -1: not counted
  // int32 [B, whole sequence]: the position where each position's document begins; empty: one
  // document a sequence.
  TensorView document_begin;
  std::span<const std::int64_t> samples;  // [B] global sequence numbers of the run (dropout)

  std::int64_t tokens_count() const { return sequences * seq; }
};

// What backward finds kept and what it computes again (Chen et al. 2016; selective: Korthikanti et
// al. 2022). The same kernels on the same operands: the same bits.
enum class Recompute {
  kNone,
  kSelective,  // normalised inputs, attention's output and the feed-forward activation are made
               // again
  kFull,       // a block keeps its input only
};

struct LayerContext {
  Kernels& kernels;
  Arena& keep;     // what backward reads
  Arena& scratch;  // temporaries: each layer releases what it pushed
  // heads, kv_heads and ffn are this tp rank's share.
  const ModelConfig& config;
  ParamStore& params;
  const TensorParallel& tensor;
  const ContextParallel& context;
  const ExpertParallel& experts;
  const MicroBatch& batch;
  std::int64_t seed = 0;
  bool training = true;  // false: no dropout, no backward
  // Weight of each sequence's auxiliary losses in the step's loss; where their values and the
  // routers' counts are added up (may be null).
  double sequence_scale = 0.0;
  MoeCounters* counters = nullptr;
  TensorView loss{};  // fp64 [1]: the head adds the micro-batch's here
  bool selective = false;

  std::int64_t tokens() const { return batch.tokens_count(); }  // N
  std::int64_t rows() const { return tensor.rows(tokens()); }   // of the stream
  TensorView push(Arena& arena, std::int64_t width) const {     // activation [N, width]
    return arena.push(params.compute(), {tokens(), width});
  }
  TensorView push_rows(Arena& arena, std::int64_t count, std::int64_t width) const {
    return arena.push(params.compute(), {count, width});
  }
  TensorView push_stream(Arena& arena) const {  // [rows, C]
    return arena.push(params.compute(), {rows(), config.hidden});
  }
  TensorView push_stats(Arena& arena) const {
    return arena.push(params.accumulator(), {rows(), 2});
  }
  // The same, but backward's operands go elsewhere.
  LayerContext keeping_in(Arena& arena) const {
    auto other = with_keep(arena);
    other.selective = false;
    return other;
  }
  // The same for a pass that computes again what was counted before.
  LayerContext again_in(Arena& arena) const {
    auto other = keeping_in(arena);
    other.counters = nullptr;
    return other;
  }
  // Where selective recomputation puts what it will make again.
  Arena& keep_unless_selective() const { return selective ? scratch : keep; }

  // The mask stream of one dropout site, for this rank's rows of the stream.
  Dropout dropout(const std::string& site) const {
    if (!training || config.dropout == 0.0) return {};
    Dropout d;
    d.rate = config.dropout;
    d.key = comm::random_key(static_cast<std::uint64_t>(seed), "dropout/" + site);
    d.samples = batch.samples;
    d.first_row = tensor.first_row(tokens());
    d.seq = batch.seq;
    if (context.size() > 1) d.positions = batch.positions;
    return d;
  }
  // The same for attention's probabilities: all rows, this rank's heads.
  Dropout head_dropout(const std::string& site) const {
    auto d = dropout(site);
    d.first_row = 0;
    d.positions = {};
    d.first_head = config.heads * tensor.rank();
    return d;
  }

 private:
  LayerContext with_keep(Arena& arena) const {
    return {kernels, arena, scratch,  config,         params,   tensor, context,  experts,
            batch,   seed,  training, sequence_scale, counters, loss,   selective};
  }
};

// The residual stream between two norms: its value is residual + branch. The addition is left to
// the next norm, which fuses it. An empty branch is zero.
struct Stream {
  TensorView residual, branch;  // [rows, C]
};

}  // namespace pg::model
