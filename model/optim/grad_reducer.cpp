#include "model/optim/grad_reducer.h"

namespace pg::model {

void GradReducer::place_done(std::int64_t place) {
  if (replicas_.size() == 1) return;
  const auto grads = params_.grads_of_place(place);
  pending_.push_back(replicas_.all_reduce(
      {grads.raw(), static_cast<std::size_t>(grads.elements()), grads.dtype(), grads.device()},
      comm::ReduceOp::kSum));
}

void GradReducer::finish() {
  for (auto& pending : pending_) pending.wait();
  pending_.clear();
}

}  // namespace pg::model
