// How many of a job's ranks the grid of a deck takes. A run that goes on after a node was lost may
// leave some idle, rather than not go on.
#pragma once

#include "app/deck.h"

namespace pg::app {

// All `ranks`, unless grid.dp = 0 and checkpoint.resume is not "none": then those of the largest dp
// with which tp*pp*ep*cp*dp ranks are there, dp*ep*micro_batch divides global_batch and the
// pipeline's schedule takes the micro-batches that this leaves. Where no dp is legal, those of dp =
// 1, whose problems the cross checks name; where there are not even so many ranks, `ranks`. The
// others, the last of the world, are idle. For decks whose keys are each within their range.
int ranks_in_use(const Deck& deck, int ranks);

}  // namespace pg::app
