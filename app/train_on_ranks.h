// The command `train` on a world that may have more ranks than the deck's grid takes.
#pragma once

#include "app/train.h"

namespace pg::app {

// Collective over `world`. run_train on the ranks that app/ranks_in_use counts, from rank 0 on;
// rank 0 warns which ones are idle. These are in no communicator of the run, sleep, and return the
// code that the others end with, also when these throw: an Error that they agreed on is then of
// world.size() ranks. Signals are the others' to obey (launchers send them to every rank).
ExitCode train_on_ranks(const Deck& deck, const comm::Communicator& world, Launch launch);

}  // namespace pg::app
