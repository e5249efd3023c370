// The command `train`: a trainer with its output folder, checkpoints, metrics and console.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "app/deck.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::app {

// What only the program knows of its start.
struct Launch {
  // When it began, from which run.wall_limit counts.
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  // Of ranks that have no place in the grid: "rank 2 (host)".
  std::vector<std::string> idle = {};
};

class Trainer;

// What tests do to a run.
struct TrainControls {
  // On every rank; the second between the batches of an evaluation.
  std::function<void(Trainer&)> before_step = {}, in_evaluation = {};
};

// Collective over `world`. Returns kDone or kStopped (75); a failure that the ranks agreed on is an
// Error, the same on all ranks, after exit.json has been written. Rank 0 prints.
ExitCode run_train(const Deck& deck, const comm::Communicator& world, const Launch& launch = {},
                   const TrainControls& controls = {});

}  // namespace pg::app
