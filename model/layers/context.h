// What every layer gets: where to compute, where to put activations, the parameters, and the
// micro-batch. Letters as in kernels/kernels.h: N = B*T tokens, C hidden, F feed-forward width, V
// vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/arena.h"
#include "model/kernels/kernels.h"
#include "model/param_store.h"

namespace pg::model {

struct MicroBatch {
  std::int64_t sequences = 0, seq = 0;    // B, T
  TensorView tokens, positions, targets;  // int32 [N]; target -1: not counted
  std::span<const std::int64_t> samples;  // [B] global sequence numbers of the run (dropout)

  std::int64_t tokens_count() const { return sequences * seq; }
};

struct LayerContext {
  Kernels& kernels;
  Arena& arena;
  const ModelConfig& config;
  ParamStore& params;
  const MicroBatch& batch;
  std::int64_t seed = 0;
  bool training = true;  // false: no dropout, no backward

  std::int64_t tokens() const { return batch.tokens_count(); }  // N
  TensorView push(std::int64_t width) const {                   // activation [N, width]
    return arena.push(params.compute(), {tokens(), width});
  }
  TensorView push_stats() const { return arena.push(params.accumulator(), {tokens(), 2}); }
  // The mask stream of one dropout site.
  Dropout dropout(const std::string& site) const {
    if (!training || config.dropout == 0.0) return {};
    return {config.dropout, comm::random_key(static_cast<std::uint64_t>(seed), "dropout/" + site),
            batch.samples};
  }
};

// The residual stream between two norms: its value is residual + branch. The addition is left to
// the next norm, which fuses it. An empty branch is zero.
struct Stream {
  TensorView residual, branch;  // [N, C]
};

}  // namespace pg::model
