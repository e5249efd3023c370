// Runs this rank's model chunks over the micro-batches of a step, in the order that a schedule
// says, and moves the stream between pipeline stages. One stage is the same with a schedule without
// messages.
//
// Memory: every micro-batch between its forward and its backward holds one slot of its chunk, an
// arena of what backward reads; the schedule tells how many slots there are. Temporaries, what
// recomputation makes, and messages have arenas of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "model/model_chunk.h"
#include "model/optim/sabotage.h"
#include "model/pipeline/schedule.h"
#include "model/sharding.h"

namespace pg::model {

struct PipelineOptions {
  ScheduleKind schedule = ScheduleKind::k1F1B;
  RecomputePlan recompute;
  std::int64_t sequences = 1, seq = 1;  // of a micro-batch: whole sequences, their length
  int micro_batches = 1;                // of a step
};

// High-water bytes of each kind of activation memory of one rank.
struct ActivationBytes {
  std::vector<std::int64_t> slot;  // one slot of each chunk
  std::vector<int> slots;          // of each chunk
  std::int64_t scratch = 0, recompute = 0, messages = 0;
  std::int64_t total() const;
};

// By running the step's own code over arenas without storage. What experts receive is not known
// before: either as much as there can be, which memory is reserved for (pages that stay untouched
// cost nothing), or an even load.
enum class AssumedLoad { kLargest, kBalanced };
ActivationBytes activation_bytes(const ModelConfig& config, const ParamLayout& layout,
                                 DType compute, const PipelineOptions& options,
                                 AssumedLoad load = AssumedLoad::kLargest,
                                 Device device = Device::kCpu);

class Pipeline {
 public:
  using MicroBatchOf = std::function<MicroBatch(int index)>;

  // Keeps references to `params`, `kernels` and `use`, which must outlive it. `seed` keys dropout.
  Pipeline(const ModelConfig& config, const PipelineOptions& options, ParamStore& params,
           Kernels& kernels, Groups groups, std::int64_t seed, PlaceUse& use);
  ~Pipeline();

  // Forward and backward of options.micro_batches micro-batches: the sum over their counted tokens
  // of the cross-entropy (nats) on the stage that has the head, 0 on others; the gradients of
  // loss_scale times it, and of sequence_scale times each sequence's auxiliary losses, are added to
  // the store's.
  double forward_backward(const MicroBatchOf& micro, double loss_scale,
                          double sequence_scale = 0.0);
  // The same sum over `count` micro-batches without dropout or gradients.
  double loss(const MicroBatchOf& micro, int count);
  // logits[N, vocabulary rows of this tp rank] of one micro-batch, without dropout; pp = 1.
  void logits(const MicroBatch& batch, TensorView logits);

  // What the routers have counted on this rank since the last clear(); empty without experts.
  MoeCounters& counters();
  // Of the negative controls.
  void set_sabotage(const Sabotage& sabotage);

  const ActivationBytes& planned() const;
  // What was used so far, of the same kinds; never more than planned.
  std::int64_t high_water() const;

 private:
  friend ActivationBytes activation_bytes(const ModelConfig&, const ParamLayout&, DType,
                                          const PipelineOptions&, AssumedLoad, Device);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::model
