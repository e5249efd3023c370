#include "model/optim/optimizer.h"

#include <cmath>

namespace pg::model {

namespace {

TensorView flat(TensorView x) {
  return x.empty() ? x : x.reshape({x.elements()});
}

}  // namespace

double Optimizer::grad_norm() {
  double squares = 0.0;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    squares += kernels_.sum_of_squares(flat(params_.grad(id)));
  }
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
    args.weight_decay = params_.table()[id].decays() ? config_.weight_decay : 0.0;
    kernels_.adamw(flat(params_.weight(id)), flat(params_.master(id)), flat(params_.m(id)),
                   flat(params_.v(id)), flat(params_.grad(id)), args);
  }
  kernels_.weights_changed();
}

}  // namespace pg::model
