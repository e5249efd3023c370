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

struct GradNorm {
  // Root of the sum of squares over every logical gradient element, each counted once; the same on
  // every rank that holds sound copies.
  double norm = 0;
  // The sum of squares of all that this rank keeps, copies that do not count included: not finite
  // when any of it is not.
  double own_squares = 0;
};

class Optimizer {
 public:
  // `params` and `kernels` must outlive it.
  Optimizer(const AdamWConfig& config, ParamStore& params, Kernels& kernels, Groups groups)
      : config_(config),
        params_(params),
        kernels_(kernels),
        groups_(std::move(groups)),
        sums_(3 * sizeof(double), Buffer::Kind::kReal, kernels.device()) {}

  // Collective.
  GradNorm grad_norm();
  // One update with gradients scaled to at most `clip` (Pascanu et al. 2013). `update` counts from
  // 1: the moments are means over so many. The weights elsewhere follow by WeightGatherer::publish.
  void update(std::int64_t update, double lr, double grad_norm);

 private:
  AdamWConfig config_;
  ParamStore& params_;
  Kernels& kernels_;
  Groups groups_;
  Buffer sums_;  // of squares, where the kernels compute
};

}  // namespace pg::model
