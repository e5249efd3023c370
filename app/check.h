// `pentagrid check`: what a deck resolves to, without MPI and without allocating anything.
#pragma once

#include <string>
#include <vector>

#include "app/deck.h"

namespace pg::app {

// The resolved deck, then grid, batch and bytes per rank as comments: the whole is a deck again.
std::string check_report(const Deck& deck, int ranks);

// One sentence for each file that training will need and that is not there yet.
std::vector<std::string> missing_files(const Deck& deck);

// The product of the axes, with 1 for dp = 0: what `check` assumes without --ranks.
int least_ranks(const Deck& deck);

}  // namespace pg::app
