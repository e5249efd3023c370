#include "parity.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <stdexcept>

namespace pg::testing {

Trace one_rank(app::Deck deck, std::int64_t steps) {
  deck.run.device = "cpu";
  deck.grid = {};
  deck.pipeline = {};
  deck.context = {};
  deck.recompute = {};
  return train(comm::Communicator::self(), deck, steps);
}

namespace {

// The worse of two; a NaN is the worst, and stays.
bool raise(double& worst, double d) {
  if (std::isnan(worst) || d <= worst) return false;
  worst = d;
  return true;
}

// Calls use(communicator) on the first ranks. What all of them throw is thrown on every rank: the
// others would wait for ever.
template <class Use>
void on_first_ranks(int ranks, Use use) {
  const auto world = comm::Communicator::world();
  const bool inside = world.rank() < ranks;
  const auto part = world.split(inside ? 0 : -1, world.rank());
  std::exception_ptr failure;
  try {
    if (inside) use(part);
  } catch (...) {
    failure = std::current_exception();
  }
  const auto group = comm::make_mpi_group(world, "parity");
  const std::int64_t failed = failure ? 1 : 0;
  if (comm::all_reduce(*group, failed, comm::ReduceOp::kMax) == 0) return;
  if (failure) std::rethrow_exception(failure);
  throw std::runtime_error("the ranks of the case have failed");
}

}  // namespace

ParityResult compare(const app::Deck& deck, int ranks, const Trace& reference,
                     const ParityBounds& bounds, const model::Sabotage& sabotage) {
  ParityResult result;
  on_first_ranks(ranks, [&](const comm::Communicator& part) {
    const auto steps = static_cast<std::int64_t>(reference.losses.size());
    const auto trace = train(part, deck, steps, sabotage);

    double largest = 0;
    for (const auto& [name, gradient] : reference.first_gradients) {
      largest = std::max(largest, norm(gradient));
    }
    for (const auto& [name, gradient] : reference.first_gradients) {
      const double d =
          deviation(trace.first_gradients.at(name), gradient, bounds.gradient_floor * largest);
      if (raise(result.worst_gradient, d)) result.worst_parameter = name;
    }
    for (std::size_t i = 0; i < reference.losses.size(); ++i) {
      const double d = std::abs(trace.losses[i] / reference.losses[i] - 1.0);
      if (raise(result.worst_loss, d)) result.worst_step = static_cast<std::int64_t>(i) + 1;
      raise(result.worst_norm, std::abs(trace.grad_norms[i] / reference.grad_norms[i] - 1.0));
      if (const double aux = reference.aux_losses[i]; aux != 0.0 || trace.aux_losses[i] != 0.0) {
        raise(result.worst_aux, std::abs(trace.aux_losses[i] / aux - 1.0));
      }
    }
    result.same_drops = trace.dropped == reference.dropped;
  });
  // Ranks outside take part in nothing; all need one verdict.
  const auto group = comm::make_mpi_group(comm::Communicator::world(), "parity");
  result.worst_gradient = comm::all_reduce(*group, result.worst_gradient, comm::ReduceOp::kMax);
  result.worst_loss = comm::all_reduce(*group, result.worst_loss, comm::ReduceOp::kMax);
  result.worst_norm = comm::all_reduce(*group, result.worst_norm, comm::ReduceOp::kMax);
  result.worst_aux = comm::all_reduce(*group, result.worst_aux, comm::ReduceOp::kMax);
  const std::int64_t differs = result.same_drops ? 0 : 1;
  result.same_drops = comm::all_reduce(*group, differs, comm::ReduceOp::kMax) == 0;
  return result;
}

RunError error_of(const Trace& trace, const Trace& exact) {
  std::vector<double> mine, theirs;
  for (const auto& [name, gradient] : exact.first_gradients) {
    const auto& other = trace.first_gradients.at(name);
    mine.insert(mine.end(), other.begin(), other.end());
    theirs.insert(theirs.end(), gradient.begin(), gradient.end());
  }
  return {deviation(trace.losses, exact.losses), deviation(mine, theirs)};
}

RunError error_on_grid(const app::Deck& deck, int ranks, const Trace& exact) {
  RunError error;
  on_first_ranks(ranks, [&](const comm::Communicator& part) {
    error = error_of(train(part, deck, static_cast<std::int64_t>(exact.losses.size())), exact);
  });
  const auto group = comm::make_mpi_group(comm::Communicator::world(), "parity");
  error.loss = comm::all_reduce(*group, error.loss, comm::ReduceOp::kMax);
  error.gradient = comm::all_reduce(*group, error.gradient, comm::ReduceOp::kMax);
  return error;
}

}  // namespace pg::testing
