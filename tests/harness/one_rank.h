// The whole model on one rank without a trainer: what tests of the mathematics work on.
#pragma once

#include <memory>

#include "model/flops.h"
#include "model/pipeline/pipeline.h"

namespace pg::testing {

class OneRank {
 public:
  OneRank(const model::ModelConfig& config, DType compute, std::int64_t sequences, std::int64_t seq,
          std::int64_t seed, model::RecomputePlan recompute = {})
      : kernels(model::make_cpu_kernels(1)),
        params(model::ParamLayout(config), compute),
        groups(model::dry_groups({}, config.kv_heads)),
        options{.recompute = recompute, .sequences = sequences, .seq = seq},
        model(config, options, params, *kernels, groups, seed, use) {}

  // The sum of the cross-entropy over counted tokens; the gradients of loss_scale times it, and of
  // sequence_scale times each sequence's auxiliary losses, are added.
  double forward_backward(const model::MicroBatch& batch, double loss_scale,
                          double sequence_scale = 0.0) {
    return model.forward_backward([&](int) { return batch; }, loss_scale, sequence_scale);
  }
  double loss(const model::MicroBatch& batch) {
    return model.loss([&](int) { return batch; }, 1);
  }

  // Which places completed their gradients, in order.
  struct Recorder final : model::PlaceUse {
    void grads_done(std::int64_t place) override { done.push_back(place); }
    std::vector<std::int64_t> done;
  };

  std::unique_ptr<model::Kernels> kernels;
  model::ParamStore params;
  model::Groups groups;
  model::PipelineOptions options;
  Recorder use;
  model::Pipeline model;
};

}  // namespace pg::testing
