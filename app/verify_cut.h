// The deck that `verify` runs: the user's, cut so that one rank can hold and compute it. Pure
// arithmetic: the same on every rank for the same answers of the hosts.
//
// What is cut says nothing about sums: fewer equal blocks, and fewer micro-batches that fill the
// pipeline all the same. What would have to shrink beyond that is the user's to decide.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "app/deck.h"
#include "comm/grid_shape.h"

namespace pg::app {

// Updates that verify makes, fewer when train.steps is: the second and the third show what the
// optimizer and the weights' way back to all ranks did.
inline constexpr std::int64_t kVerifySteps = 3;

// A host of the job.
struct VerifyHost {
  std::vector<int> ranks_of_stage;  // [pp] how many ranks of each pipeline stage it runs
  bool has_rank_0 = false;          // where the one-rank reference runs
  std::int64_t available = 0;       // bytes, with all ranks started and nothing allocated
};

struct VerifyDeck {
  Deck deck;                      // fp64, no validation, cut
  std::vector<std::string> cuts;  // what was cut, one sentence each; empty when nothing was
  // What is needed at once on the host that has the least to spare, and what may be used there.
  std::int64_t needed = 0, usable = 0;
};

// Error(kDeck) naming a key and its legal values when the fewest layers that `grid` allows are
// still too large. One entry of `hosts` has rank 0.
VerifyDeck cut_for_verify(const Deck& deck, const comm::GridShape& grid,
                          std::span<const VerifyHost> hosts);

// The reference: the same deck on one rank, nothing recomputed.
Deck one_rank_deck(Deck deck);

}  // namespace pg::app
