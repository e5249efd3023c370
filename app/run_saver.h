// The checkpoints that a run makes: when one is due is the loop's business, how it is made and
// which older ones go is here.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "app/deck.h"
#include "app/resume.h"
#include "app/trainer.h"
#include "comm/error.h"
#include "comm/process_grid.h"
#include "io/checkpoint_saver.h"
#include "io/run_folder.h"

namespace pg::app {

// What a checkpoint of this deck takes, told without building its model.
std::int64_t planned_checkpoint_bytes(const Deck& deck);
// A failure to write into the output folder before there is a model, with what a checkpoint needs
// and what is free there.
Error with_sizes(const Error& error, const Deck& deck);

// Methods are collective. All of it outlives none of its arguments, nor of a trainer it saved.
class RunSaver {
 public:
  // On rank 0: `record` takes a line for metrics.jsonl; `before_files` is called, from any thread,
  // before entries are made, renamed and removed, and what it throws is a failure of the save.
  RunSaver(const Deck& deck, comm::ProcessGrid& grid, io::RunFolder& folder, Say say,
           std::function<void(const std::string&)> record, std::function<void()> before_files);

  // Before training: plans the file and takes an asynchronous save's memory. Error(kSave). On rank
  // 0: what the last save of this run took in an earlier slice; 0: not known.
  void prepare(Trainer& trainer, double last_seconds);
  // Saves the trainer's state. With checkpoint.async it is written while training goes on; an
  // earlier one is waited for first. Error(kSave), Error(kNumerical) when it is not finite.
  // `prune` false: all older ones stay.
  void save(Trainer& trainer, bool prune = true);
  // Between steps: moves an asynchronous save along, and commits it once it is written.
  // Error as save(), on all ranks at the same step.
  void poll();
  // Waits for an asynchronous save. Nothing is written afterwards.
  void finish();
  // A run that ends with an error that all ranks have still finishes what it had copied; what one
  // rank has alone abandons it (the destructor).
  void finish_after(const Error& error) noexcept;

  // What a save from now on may keep the run: the longest so far (a blocking one's whole time, an
  // asynchronous one's work), and once more where one is pending; before the first what the slice
  // before measured, or an estimate from its bytes. The same on every rank.
  double expected_seconds() const { return (saver_.pending() ? 2 : 1) * longest_; }

 private:
  void keep_choices(Trainer& trainer);
  void tell(const std::optional<io::SaveReport>& report);

  const Deck& deck_;
  comm::ProcessGrid& grid_;
  io::RunFolder& folder_;
  Say say_;
  std::function<void(const std::string&)> record_;
  io::CheckpointSaver saver_;
  Trainer* saving_ = nullptr;  // whose records a pending save may read
  double fetch_seconds_ = 0;   // before the last save; the slowest rank's
  bool measured_ = false;
  double longest_ = 0;
};

}  // namespace pg::app
