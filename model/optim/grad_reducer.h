// Sums gradients over the ranks that hold copies of the parameters, place by place, as soon as a
// backward has completed each.
//
// Experts have replicas of their own. ZeRO 0: all-reduce over the replicas; 1: reduce-scatter, each
// replica gets its piece of the sum; both after the last micro-batch. 2 and 3: every micro-batch's
// gradients live in a slot, are reduce-scattered and added to this rank's piece (Rajbhandari et al.
// 2020). Sums over other copies follow at the end, on what this rank keeps: over tp for norms and
// biases that saw a part of the stream, over the ranks that share KV heads, over both ends of the
// pipeline for a tied embedding.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "model/kernels/kernels.h"
#include "model/optim/sabotage.h"
#include "model/param_store.h"
#include "model/sharding.h"

namespace pg::model {

class GradReducer {
 public:
  // `params` and `kernels` must outlive it.
  GradReducer(ParamStore& params, Kernels& kernels, Groups groups);

  void begin_step();
  // Gradients of this place are about to be added up. Every replica calls both in the same order.
  void begin(std::int64_t place);
  // They are complete for a micro-batch on this rank; `last`: for the step.
  void done(std::int64_t place, bool last);
  // All sums have arrived.
  void finish();

  // Sums of so many places are on their way at once: one travels while the next place computes, and
  // a group's room for messages stays small.
  static constexpr std::size_t kInFlight = 2;

  Sabotage& sabotage() { return sabotage_; }

 private:
  void poison(std::int64_t place, bool last);
  void launch(std::int64_t place);
  void settle_oldest();
  void sum_over(comm::Group& group, std::span<const TensorView> parts);
  bool dropped(std::int64_t place) const;
  comm::Group& replicas_of(std::int64_t place) const;

  ParamStore& params_;
  Kernels& kernels_;
  Groups groups_;
  struct Flight {
    std::int64_t place = -1;
    comm::Pending pending;
  };
  std::deque<Flight> flights_;  // oldest first
  Buffer packed_;               // small tensors on their way together
  Sabotage sabotage_;
};

}  // namespace pg::model
