// The rows of the table for saving, logging and the commands that do not train: see
// app/schema_table.cpp.
#include "app/schema_row.h"

namespace pg::app {

std::vector<Row> saving_rows() {
  const auto checkpoint = &Deck::checkpoint;
  using Checkpoint = CheckpointSection;
  return {
      {.name = "checkpoint.every",
       .field = at(checkpoint, &Checkpoint::every),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Save every so many steps. 0: only on a stop."},
      {.name = "checkpoint.keep",
       .field = at(checkpoint, &Checkpoint::keep),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "checkpoints",
       .doc =
           "Newest sound ones to keep. 0: all. None is removed before a newer one is committed, "
           "its "
           "manifest and the sizes of its files looked at (with checkpoint.verify all it holds)."},
      {.name = "checkpoint.keep_every",
       .field = at(checkpoint, &Checkpoint::keep_every),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Those of steps that are a multiple of this stay beside the newest. 0: no others."},
      {.name = "checkpoint.resume",
       .field = at(checkpoint, &Checkpoint::resume),
       .fallback = "none",
       .doc = "\"none\": start afresh, refused when run.output holds a run. \"latest\": the newest "
              "sound checkpoint, which must exist. \"auto\": latest if there is one, else none. "
              "Or the path of a checkpoint."},
      {.name = "checkpoint.async",
       .field = at(checkpoint, &Checkpoint::async),
       .fallback = false,
       .doc = "Copy the state and write it while training goes on; takes its bytes of memory once "
              "more. It counts from its commit, a few steps later: a kill before that costs up to "
              "2 * checkpoint.every - 1 steps."},
      {.name = "checkpoint.verify",
       .field = at(checkpoint, &Checkpoint::verify),
       .fallback = false,
       .doc = "Read each checkpoint back from storage, past the page cache where the system "
              "allows, and compare it with memory before it counts."},
      {.name = "checkpoint.override",
       .field = at(checkpoint, &Checkpoint::overrides),
       .fallback = std::vector<std::string>{},
       .doc = "Keys that may differ from the deck in the checkpoint that is resumed, which else "
              "refuses."},
      {.name = "checkpoint.hints",
       .field = at(checkpoint, &Checkpoint::hints),
       .fallback = std::vector<std::string>{},
       .doc = "NAME=VALUE for the parallel file system, passed to MPI-IO where the file is made: "
              "striping_factor=16, striping_unit=16777216."},
      {.name = "checkpoint.alignment",
       .field = at(checkpoint, &Checkpoint::alignment),
       .fallback = 4096,
       .range = between(1, 1 << 30),
       .unit = "bytes",
       .doc = "Tensors of a MiB or more begin at multiples of this; the stripe size on Lustre."},

      {.name = "log.every",
       .field = at(&Deck::log, &LogSection::every),
       .fallback = 10,
       .range = between(1, kStepsMax),
       .unit = "steps",
       .doc = "A line on the console every so many steps; metrics.jsonl gets every step."},
      {.name = "log.straggler",
       .field = at(&Deck::log, &LogSection::straggler),
       .fallback = 2.0,
       .range = at_least(0),
       .doc = "Name a rank whose own work took more than so many times the median of its pipeline "
              "stage. 0: off."},

      reserved("generate.prompts", ""),
      reserved("generate.output", ""),
      reserved("generate.max_new_tokens", 0),
      reserved("generate.temperature", 1.0),
      reserved("generate.top_k", 0),
      reserved("generate.top_p", 1.0),
      reserved("generate.seed", 1),
      reserved("generate.block_size", 0),
      reserved("plan.nodes", 0),
      reserved("plan.gpus_per_node", 0),
      reserved("plan.gpu", ""),
      reserved("plan.target", ""),
  };
}

}  // namespace pg::app
