// `pentagrid prepare DECK`: text -> tokenizer -> HDF5 token files. Serial in MPI's sense; encodes
// on run.threads threads. The files depend on the text and the deck alone, not on the threads.
#pragma once

#include "app/deck.h"

namespace pg::app {

// Makes data.train (and data.valid when set) from data.text, and data.tokenizer when that names a
// file that is missing. What is there already and was made from the same text and settings is kept.
// Returns the exit code; errors are thrown: kDeck naming a key, kData naming a file, kSave.
//
// With data.valid set, a 64th of the text goes there: every 64th document, or, in fewer documents
// than that, every 64th slice of 16 KiB (at line ends).
int run_prepare(const Deck& deck);

}  // namespace pg::app
