#include "model/optim/optimizer.h"

#include <array>
#include <cmath>
#include <vector>

#include "comm/profile_range.h"

namespace pg::model {

double Optimizer::grad_norm() {
  const comm::ProfileRange range("gradient norm");
  const auto& layout = params_.layout();
  std::vector<TensorView> dense, experts;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    if (!layout.part(id).counts) continue;
    auto& parts = layout.is_experts(params_.table()[id].place) ? experts : dense;
    parts.push_back(params_.kept_grad(id));
  }
  // Both sums in one reading, which waits for all that came before.
  const TensorView sums(sums_.at(0), DType::kF64, {2}, sums_.device());
  kernels_.fill_zero(sums);
  kernels_.sum_of_squares(sums.slice(0, 0, 1), dense);
  kernels_.sum_of_squares(sums.slice(0, 1, 1), experts);
  std::array<double, 2> on_host{};
  kernels_.copy(TensorView(on_host.data(), DType::kF64, {2}), sums);
  auto [squares, of_experts] = on_host;

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
  std::vector<AdamWTensors> tensors;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    if (params_.layout().kept(id).elements() == 0) continue;
    const auto exact = params_.kept_exact(id), rounded = params_.kept_rounded(id);
    const bool apart = !rounded.empty();
    tensors.push_back({apart ? rounded : exact, apart ? exact : TensorView(), params_.kept_m(id),
                       params_.kept_v(id), params_.kept_grad(id),
                       params_.table()[id].decays() ? config_.weight_decay : 0.0});
  }
  kernels_.adamw(tensors, args);
}

}  // namespace pg::model
