// AdamW over this rank's pieces of the parameters: the clip norm over all gradients and one update.
#pragma once

#include <cstdint>

#include "model/buffer.h"
#include "model/kernels/kernels.h"
#include "model/param_store.h"
#include "model/sharding.h"

namespace pg::model {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  double clip = 0.0;  // largest global gradient norm; 0: off
};

class Optimizer {
 public:
  // `params` and `kernels` must outlive it.
  Optimizer(const AdamWConfig& config, ParamStore& params, Kernels& kernels, Groups groups)
      : config_(config),
        params_(params),
        kernels_(kernels),
        groups_(std::move(groups)),
        sums_(2 * sizeof(double), Buffer::Kind::kReal, kernels.device()) {}

  // Root of the sum of squares over every logical gradient element, each counted once; the same on
  // every rank.
  double grad_norm();
  // One update with gradients scaled to at most `clip` (Pascanu et al. 2013). `step` counts from 1.
  // The weights elsewhere follow by WeightGatherer::publish.
  void update(std::int64_t step, double lr, double grad_norm);

 private:
  AdamWConfig config_;
  ParamStore& params_;
  Kernels& kernels_;
  Groups groups_;
  Buffer sums_;  // of squares, where the kernels compute
};

}  // namespace pg::model
