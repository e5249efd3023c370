// How many OpenMP threads a rank computes with: what every command that computes asks.
#pragma once

#include <cstdint>

#include "app/deck.h"
#include "comm/process_grid.h"

namespace pg::app {

// The deck's run.threads, else OMP_NUM_THREADS, else the cores that the launcher bound this rank
// to, else its share of the host. At least 1.
std::int64_t threads_of(const Deck& deck, const comm::ProcessGrid& grid);

}  // namespace pg::app
