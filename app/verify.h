// The command `verify`: a few steps of a deck on its grid and the same steps on one rank, in fp64,
// from fresh weights. It reads data.train and writes no file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "app/deck.h"
#include "comm/error.h"
#include "comm/mpi_session.h"
#include "model/optim/grad_reducer.h"

namespace pg::app {

// What tests put in the place of the machine and of the terminal.
struct VerifyControls {
  model::Sabotage sabotage = {};                     // of the grid's sums
  std::int64_t available = 0;                        // bytes on each host; 0: what it has
  std::function<void(const std::string&)> say = {};  // on rank 0; none: standard output
};

// Collective over `world`, the deck's grid. Returns kDone when the gradients of every layer and the
// losses are within kVerifyBound of one rank's. Error on all ranks: kNumerical, the worst layer
// named, when they are not; kDeck, with key and legal values, when no cut makes one rank hold the
// model; kData as training has it.
ExitCode run_verify(const Deck& deck, const comm::Communicator& world,
                    const VerifyControls& controls = {});

}  // namespace pg::app
