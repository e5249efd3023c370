// What training needs, by formulas on paper: bytes of one rank from the sizes of the model and the
// grid alone. Written without a look at the code that allocates, which the plan runs; so the two
// can be held against each other. Activations of single layers: harness/memory_layers.h.
//
// P parameters on this rank, n replicas (of dense parameters dp*ep*cp, of experts dp*cp), e bytes
// of an activation, a bytes of an accumulator.
#pragma once

#include <cstdint>

#include "app/deck.h"
#include "comm/grid_shape.h"
#include "harness/memory_layers.h"
#include "model/param_layout.h"

namespace pg::testing {

struct MemoryFormula {
  // ZeRO's table (Rajbhandari et al. 2020): weights e P (stage 3: none but the exact ones, a P /
  // n), gradients a P (from stage 2: a P / n), masters a P and moments 2 a P (from stage 1 over
  // n); and a router's balance. Without padding, so not quite whole numbers.
  double weights = 0, gradients = 0, master = 0, moments = 0;
  // Two blocks, the experts of two, and each table: once in stage 2 (a) and twice in 3 (a + e).
  double slots = 0;
  // How many ranges the rank's parameters lie in: each is padded once. Of them, those with n = 1.
  std::int64_t places = 0, places_of_one = 0;
  std::int64_t slot_places = 0;

  // Kept of a micro-batch, times the micro-batches that the schedule holds; temporaries; one block
  // that is made again; streams on their way. Each tensor rounded up to 64 bytes.
  std::int64_t kept = 0, scratch = 0, recompute = 0, messages = 0;

  double parameters() const { return weights + gradients + master + moments + slots; }
  std::int64_t activations() const { return kept + scratch + recompute + messages; }
};

// Of the rank with this layout. gpipe and 1f1b, with one chunk a stage.
MemoryFormula memory_formula(const app::Deck& deck, const comm::GridShape& grid,
                             const model::ParamLayout& layout, Load load = Load::kEven);

}  // namespace pg::testing
