#include "model/optim/optimizer.h"

#include <array>
#include <cmath>
#include <vector>

#include "comm/profile_range.h"

namespace pg::model {

GradNorm Optimizer::grad_norm() {
  const comm::ProfileRange range("gradient norm");
  const auto& layout = params_.layout();
  std::vector<TensorView> dense, experts, copies;
  for (std::size_t id = 0; id < params_.table().size(); ++id) {
    if (!layout.part(id).held) continue;
    auto& parts = layout.is_experts(params_.table()[id].place) ? experts : dense;
    (layout.part(id).counts ? parts : copies).push_back(params_.kept_grad(id));
  }
  // All sums in one reading, which waits for all that came before.
  const TensorView sums(sums_.at(0), DType::kF64, {3}, sums_.device());
  kernels_.fill_zero(sums);
  kernels_.sum_of_squares(sums.slice(0, 0, 1), dense);
  kernels_.sum_of_squares(sums.slice(0, 1, 1), experts);
  kernels_.sum_of_squares(sums.slice(0, 2, 1), copies);
  std::array<double, 3> on_host{};
  kernels_.copy(TensorView(on_host.data(), DType::kF64, {3}), sums);
  auto [squares, of_experts, of_copies] = on_host;
  const double own = squares + of_experts + of_copies;

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
  return {std::sqrt(squares), own};
}

void Optimizer::update(std::int64_t update, double lr, double grad_norm) {
  AdamWStep args;
  args.lr = lr;
  args.beta1 = config_.beta1;
  args.beta2 = config_.beta2;
  args.eps = config_.eps;
  args.step = update;
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
