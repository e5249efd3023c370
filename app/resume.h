// What a run goes on from: finding the checkpoint, refusing what does not continue it, loading it.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "app/deck.h"
#include "app/trainer.h"
#include "comm/process_grid.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"

namespace pg::app {

// Prints for people; only rank 0's reaches them.
using Say = std::function<void(const std::string&)>;

// Collective. The verified entry that checkpoint.resume means, the same on every rank; nothing: a
// fresh start. Says which ones were passed over. Error(kDeck) when the folder holds another run,
// Error(kCheckpoint) as io::find_checkpoint, and when newer checkpoints would be left behind.
std::optional<io::VerifiedEntry> find_resume(const Deck& deck, comm::Group& world,
                                             const io::RunFolder& folder, const Say& say);

// Collective. Fills the trainer from `entry`, and says what was read in which time.
// Error(kCheckpoint) listing what differs from the deck it was made with.
void load_resume(const Deck& deck, comm::ProcessGrid& grid, const io::VerifiedEntry& entry,
                 Trainer& trainer, const Say& say);

}  // namespace pg::app
