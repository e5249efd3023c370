#include "model/optim/optimizer.h"

#include <cmath>

namespace pg::model {

double Optimizer::grad_norm() {
  const auto& layout = params_.layout();
  double squares = 0.0, of_experts = 0.0;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    if (!layout.part(id).counts) continue;
    auto& sum = layout.is_experts(params_.table()[id].place) ? of_experts : squares;
    sum += kernels_.sum_of_squares(params_.kept_grad(id));
  }
  const auto add_up = [](comm::Group& group, double& sum) {
    sum = comm::all_reduce(group, sum, comm::ReduceOp::kSum);
  };
  // Pieces under ZeRO, and the experts of other ranks; otherwise every replica has all.
  if (layout.cuts()) {
    add_up(*groups_.replicas, squares);
    add_up(*groups_.expert_replicas, of_experts);
  }
  add_up(*groups_.experts, of_experts);
  squares += of_experts;
  add_up(*groups_.tensor, squares);
  add_up(*groups_.pipeline, squares);
  return std::sqrt(squares);
}

void Optimizer::update(std::int64_t step, double lr, double grad_norm) {
  AdamWStep args;
  args.lr = lr;
  args.beta1 = config_.beta1;
  args.beta2 = config_.beta2;
  args.eps = config_.eps;
  args.step = step;
  if (config_.clip > 0.0 && grad_norm > config_.clip) args.grad_scale = config_.clip / grad_norm;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    if (params_.layout().kept(id).elements() == 0) continue;
    args.weight_decay = params_.table()[id].decays() ? config_.weight_decay : 0.0;
    const auto exact = params_.kept_exact(id), rounded = params_.kept_rounded(id);
    const bool apart = !rounded.empty();
    kernels_.adamw(apart ? rounded : exact, apart ? exact : TensorView(), params_.kept_m(id),
                   params_.kept_v(id), params_.kept_grad(id), args);
  }
}

}  // namespace pg::model
