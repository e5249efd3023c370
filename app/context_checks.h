// What a sequence has to be like so that it can be cut over grid.cp, and each part over grid.tp
// under sequence parallelism.
#pragma once

#include <cstdint>
#include <vector>

#include "app/deck.h"
#include "app/parallel_plan.h"

namespace pg::app {

// train.seq of a deck that can be cut is a multiple of this: 2 cp for zigzag chunks, cp for
// ulysses, and such that each part is a multiple of tp under sequence parallelism.
std::int64_t sequence_unit(const Deck& deck);

void add_context_problems(const Deck& deck, std::vector<CutProblem>& problems);

}  // namespace pg::app
