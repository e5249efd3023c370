// The micro-batches of one rank: which samples of a step it computes, and which positions of them,
// read from the token file.
//
// A step draws global_batch consecutive sample indices. They are dealt out in runs of micro_batch,
// over the ranks that hold different sequences (dp*ep), then over accumulation: so a step is the
// same set of samples on every grid.
//
// For a GPU the arrays are copied there as a step begins, from page-locked memory that
// alternates between steps, so that the host need not wait for the copy.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/grid_shape.h"
#include "io/sampler.h"
#include "io/token_file.h"
#include "model/buffer.h"
#include "model/kernels/kernels.h"
#include "model/layers/context.h"

namespace pg::app {

// Of which sequences this rank computes which positions.
struct BatchShare {
  std::int64_t seq = 0, micro_batch = 0;
  int ranks = 1, rank = 0;               // of the batch group
  std::vector<model::SequenceRun> runs;  // of its part of each sequence
  bool mask_documents = false;
};

class BatchLoader {
 public:
  // `file` must outlive the loader, and `gpu`: the kernels of the GPU to which the arrays go. Null:
  // they stay on the host.
  BatchLoader(const io::TokenFile& file, const io::Sampler& sampler, BatchShare share,
              model::Kernels* gpu = nullptr);

  // Reads this rank's share of samples [first, first + count) of the run. When count is no multiple
  // of ranks * micro_batch the last micro-batches are filled up with samples whose targets are all
  // -1. Error(kData) naming file and offset.
  void load(std::int64_t first, std::int64_t count);

  std::int64_t micro_batches() const { return micro_batches_; }
  // Views into this loader, valid until the next load.
  model::MicroBatch micro(std::int64_t index);
  // Counted tokens of samples [first, first + count) over all ranks: all of them, or with masked
  // documents those that are not the first of one.
  std::int64_t counted_tokens(std::int64_t first, std::int64_t count) const;

 private:
  // On a GPU: the arrays of the step, one behind another, in page-locked memory and there.
  void upload();
  std::int64_t array_begin(int array) const;  // in elements: tokens, targets, documents, positions
  void read_sample(std::int64_t sample, std::int64_t slot);
  void mask_documents(std::int64_t first_token, std::int64_t slot);
  // The number of documents that begin before token `token`.
  std::int64_t documents_before(std::int64_t token) const;

  const io::TokenFile& file_;
  model::Kernels* gpu_;
  io::Sampler sampler_;
  BatchShare share_;
  std::int64_t part_;  // positions of a sequence on this rank
  std::int64_t micro_batches_ = 0;
  std::vector<std::int32_t> tokens_, targets_, positions_, document_begin_;
  std::vector<std::int32_t> window_;  // of one read
  std::vector<std::int64_t> samples_;
  std::array<model::Buffer, 2> pinned_;
  model::Buffer on_gpu_;
  int turn_ = 0;
};

}  // namespace pg::app
