// Bytes that the ranks of a grid need to train a deck: counted by building everything without
// storage and running the step's own code over it (model/arena.h), so that it cannot drift from
// what a run allocates. With run.device = "cuda" these are bytes of GPU memory, to which CUDA and
// its libraries add about a GB of their own; "auto" counts as a CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "app/deck.h"
#include "comm/grid_shape.h"

namespace pg::app {

struct MemoryPlan {
  std::int64_t weights = 0, gradients = 0, master = 0, moments = 0;
  std::int64_t slots = 0;  // places in use whose weights or gradients ZeRO keeps in pieces
  // The arenas' high water; with experts when each is asked for alike, and when all tokens of the
  // ep ranks go to this one.
  std::int64_t activations = 0, activations_most = 0;
  // Copies of matrices in the layouts that the CPU's products like, one for each direction, and of
  // one activation; these come from oneDNN, which may pad a little.
  std::int64_t packed = 0;
  // What sums over ranks receive into (comm/staging.h). Most of all in ZeRO 1, where the gradients
  // of all places are on their way at once: (n-1)/n of them on n replicas.
  std::int64_t communication = 0;
  // On a GPU: what cuDNN's attention and cuBLASLt's products work in.
  std::int64_t workspace = 0;
  std::int64_t saving = 0;  // of an asynchronous save: what this rank writes, once more
  std::int64_t total = 0;   // the sum of these, with activations as expected
  std::int64_t total_most() const { return total - activations + activations_most; }
  std::int64_t parameters = 0;  // logical, of the whole model, each counted once
};

// Of the rank at this place in the grid.
MemoryPlan plan_memory(const Deck& deck, const comm::GridShape& grid, const comm::Coord& coord);
// Of each pipeline stage, its tp rank 0, which has no less than the others.
std::vector<MemoryPlan> plan_stages(const Deck& deck, const comm::GridShape& grid);
// The stage that needs the most.
std::size_t largest_stage(const std::vector<MemoryPlan>& stages);

}  // namespace pg::app
