// The command `train`: a trainer with its output folder, checkpoints, metrics and console.
#pragma once

#include <string>
#include <vector>

#include "app/deck.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::app {

// Collective over `world`. Returns kDone or kStopped (75); a failure that the ranks agreed on is an
// Error, the same on all ranks, after exit.json has been written. Rank 0 prints.
ExitCode run_train(const Deck& deck, const comm::Communicator& world);

}  // namespace pg::app
