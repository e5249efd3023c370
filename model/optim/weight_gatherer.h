// Brings the pieces of the weights together that ZeRO keeps apart (Rajbhandari et al. 2020).
// Stages 1 and 2: after an update, each replica's new piece goes to all. Stage 3: a place's weights
// are gathered into a slot before they are used, the next place's meanwhile, forward and backward.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "comm/group.h"
#include "model/kernels/kernels.h"
#include "model/optim/sabotage.h"
#include "model/param_store.h"
#include "model/sharding.h"

namespace pg::model {

class WeightGatherer {
 public:
  // `params` and `kernels` must outlive it.
  WeightGatherer(ParamStore& params, Kernels& kernels, Groups groups)
      : params_(params), kernels_(kernels), groups_(std::move(groups)) {}

  // The weights of `place` are there on return; those of `next` (-1: none) set out. Every replica
  // calls in the same order. Below stage 3 it does nothing.
  void need(std::int64_t place, std::int64_t next);
  Sabotage& sabotage() { return sabotage_; }
  // This rank's pieces have changed (update, load): from now on everyone uses the new ones.
  void publish();

 private:
  void start(std::int64_t place);
  void arrive(int slot);
  comm::Group& replicas_of(std::int64_t place) const {
    return params_.layout().is_experts(place) ? *groups_.expert_replicas : *groups_.replicas;
  }

  ParamStore& params_;
  Kernels& kernels_;
  Groups groups_;
  struct Flight {
    std::int64_t place = -1;
    comm::Pending pending;
  };
  std::array<Flight, ParamLayout::kSlots> flights_;
  Sabotage sabotage_;
};

}  // namespace pg::model
