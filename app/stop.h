// Why a run stops before its last step: a signal, a stop file, the wall limit, run.stop_after. All
// of them lead to the same end: the ranks agree after a step, save, and exit with 75.
#pragma once

#include <cstdint>
#include <string>

#include "app/deck.h"
#include "comm/group.h"

namespace pg::app {

class Stop {
 public:
  explicit Stop(const Deck& deck) : stop_after_(deck.run.stop_after) {}

  // Collective, after each step. Empty: go on; else why not, the same on every rank.
  // `save_seconds`: what a save is expected to take; `step_seconds`: what the last step took.
  std::string agreed(comm::Group& world, std::int64_t step, double save_seconds,
                     double step_seconds);

 private:
  std::int64_t stop_after_;
};

}  // namespace pg::app
