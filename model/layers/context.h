// What every layer gets: where to compute, where to put activations, the parameters, and the
// micro-batch. Letters as in kernels/kernels.h: N = B*T tokens, C hidden, F feed-forward width, V
// vocabulary. The stream is [rows, C]: rows = N, or N / tp under sequence parallelism.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/arena.h"
#include "model/kernels/kernels.h"
#include "model/layers/tensor_parallel.h"
#include "model/param_store.h"

namespace pg::model {

struct MicroBatch {
  std::int64_t sequences = 0, seq = 0;    // B, T
  TensorView tokens, positions, targets;  // int32 [N]; target -1: not counted
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
  const MicroBatch& batch;
  std::int64_t seed = 0;
  bool training = true;  // false: no dropout, no backward
  bool selective = false;

  std::int64_t tokens() const { return batch.tokens_count(); }  // N
  std::int64_t rows() const { return tensor.rows(tokens()); }   // of the stream
  TensorView push(Arena& arena, std::int64_t width) const {     // activation [N, width]
    return arena.push(params.compute(), {tokens(), width});
  }
  TensorView push_stream(Arena& arena) const {  // [rows, C]
    return arena.push(params.compute(), {rows(), config.hidden});
  }
  TensorView push_stats(Arena& arena) const {
    return arena.push(params.accumulator(), {rows(), 2});
  }
  // The same, but backward's operands go elsewhere.
  LayerContext keeping_in(Arena& arena) const {
    return {kernels, arena, scratch, config, params, tensor, batch, seed, training, false};
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
    return d;
  }
  // The same for attention's probabilities: all rows, this rank's heads.
  Dropout head_dropout(const std::string& site) const {
    auto d = dropout(site);
    d.first_row = 0;
    d.first_head = config.heads * tensor.rank();
    return d;
  }
};

// The residual stream between two norms: its value is residual + branch. The addition is left to
// the next norm, which fuses it. An empty branch is zero.
struct Stream {
  TensorView residual, branch;  // [rows, C]
};

}  // namespace pg::model
