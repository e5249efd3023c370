// The parity harness: one deck on a list of grids against the same deck on one rank. Later axes add
// grids and cases here, not another harness.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "harness/tiny_run.h"

namespace pg::testing {

struct ParityBounds {
  double gradient = 0;        // relative Frobenius, each parameter of the first step
  double gradient_floor = 0;  // of the largest gradient's norm: below it only noise is compared
  double loss = 0;            // relative, each step; of routers' losses too
  double norm = INFINITY;     // the gradient norm's, relative, each step
};

struct ParityResult {
  double worst_gradient = 0, worst_loss = 0, worst_norm = 0, worst_aux = 0;
  bool same_drops = true;  // of every step, to the last token
  std::string worst_parameter;
  std::int64_t worst_step = 0;
  bool within(const ParityBounds& bounds) const {
    return worst_gradient <= bounds.gradient && worst_loss <= bounds.loss &&
           worst_norm <= bounds.norm && worst_aux <= bounds.loss && same_drops;
  }
};

// Collective over MPI_COMM_WORLD: the first `ranks` ranks train `deck` on its grid and are compared
// with the reference; all ranks return the same result.
ParityResult compare(const app::Deck& deck, int ranks, const Trace& reference,
                     const ParityBounds& bounds, const model::Sabotage& sabotage = {});

// How far a run of lower precision is from an exact one: of the losses together, and of the first
// step's gradients together, relative Frobenius.
struct RunError {
  double loss = 0, gradient = 0;
};
RunError error_of(const Trace& trace, const Trace& exact);
// Collective, as compare: that of `deck` on the first `ranks` ranks.
RunError error_on_grid(const app::Deck& deck, int ranks, const Trace& exact);

// The reference: the deck on one rank, on the CPU.
Trace one_rank(app::Deck deck, std::int64_t steps);

}  // namespace pg::testing
