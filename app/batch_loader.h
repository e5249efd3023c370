// The micro-batches of one rank: which samples of a step it computes, read from the token file.
//
// A step draws global_batch consecutive sample indices. They are dealt out in runs of micro_batch,
// over the ranks that hold different sequences (dp*ep), then over accumulation: so a step is the
// same set of samples on every grid.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/grid_shape.h"
#include "io/sampler.h"
#include "io/token_file.h"
#include "model/layers/context.h"

namespace pg::app {

class BatchLoader {
 public:
  // `file` must outlive the loader. `ranks` is the size of the batch group, `rank` this one's place
  // in it.
  BatchLoader(const io::TokenFile& file, const io::Sampler& sampler, std::int64_t seq,
              std::int64_t micro_batch, int ranks, int rank);

  // Reads this rank's share of samples [first, first + count) of the run. When count is no multiple
  // of ranks * micro_batch the last micro-batches are filled up with samples whose targets are all
  // -1. Error(kData) naming file and offset.
  void load(std::int64_t first, std::int64_t count);

  std::int64_t micro_batches() const { return micro_batches_; }
  // Views into this loader, valid until the next load.
  model::MicroBatch micro(std::int64_t index);
  // Counted tokens of `count` samples over all ranks.
  std::int64_t counted_tokens(std::int64_t count) const { return count * seq_; }

 private:
  const io::TokenFile& file_;
  io::Sampler sampler_;
  std::int64_t seq_, micro_batch_, ranks_, rank_;
  std::int64_t micro_batches_ = 0;
  std::vector<std::int32_t> tokens_, targets_, positions_;
  std::vector<std::int64_t> samples_;
};

}  // namespace pg::app
