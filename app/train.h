// The command `train`: a trainer with its output folder, checkpoints, metrics and console.
#pragma once

#include <functional>

#include "app/deck.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::app {

class Trainer;

// What tests do to a run.
struct TrainControls {
  std::function<void(Trainer&)> before_step = {};  // on every rank
};

// Collective over `world`. Returns kDone or kStopped (75); a failure that the ranks agreed on is an
// Error, the same on all ranks, after exit.json has been written. Rank 0 prints.
ExitCode run_train(const Deck& deck, const comm::Communicator& world,
                   const TrainControls& controls = {});

}  // namespace pg::app
