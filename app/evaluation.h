// Validation in a run: when it is due, how long it takes, its record and its line. One that a stop
// cuts short leaves a record too, and the next start in that folder does it again before its first
// step, once: what does not fit into a whole slice must not keep the run from going on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "app/resume.h"
#include "app/trainer.h"
#include "comm/group.h"
#include "io/run_folder.h"

namespace pg::app {

class Evaluation {
 public:
  // On rank 0: `record` takes a line for metrics.jsonl.
  Evaluation(const Deck& deck, comm::Group& world, Say say,
             std::function<void(const std::string&)> record);

  bool due(const Trainer& trainer, std::int64_t step) const;
  // What the next one may take, where a step takes so long.
  double expected_seconds(double step_seconds) const;
  // What a step may take, by the batches of an evaluation; 0: there was none.
  double expected_step_seconds() const;
  // Collective: whether the one after the trainer's step is still to be done.
  bool left_over(const Trainer& trainer, const io::RunFolder& folder);

  // Why the run must stop now, the same on every rank, or nothing: asked before each batch but the
  // first, with the seconds that a batch takes.
  using MustStop = std::function<std::string(double batch_seconds)>;
  // Collective. Empty: it is done; else what cut it short.
  std::string run(Trainer& trainer, const MustStop& must_stop);

 private:
  const Deck& deck_;
  comm::Group& world_;
  Say say_;
  std::function<void(const std::string&)> record_;
  double longest_ = 0;        // seconds, of whole ones
  double batch_seconds_ = 0;  // of the last one's batches
};

}  // namespace pg::app
