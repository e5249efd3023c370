// The command `inspect`: what a checkpoint, a run's checkpoints or a token file holds, with every
// digest verified. Needs no launcher and no MPI.
#pragma once

#include <string>

namespace pg::app {

// Prints to standard output; returns 0 when everything verified. `path` is a checkpoint entry, a
// folder of entries, a run's output folder, or an HDF5 token file. Damage of a single one is an
// Error (kCheckpoint, or kData for a token file); of a list, it is printed and 4 is returned.
// Error(kDeck) when there is nothing at `path`.
int run_inspect(const std::string& path);

}  // namespace pg::app
