// A deck as plain values, one struct a section, field names as the keys. app/schema fills it and
// is the place for defaults, ranges and documentation; everything else only reads it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/dtype.h"
#include "comm/grid_shape.h"
#include "model/config.h"
#include "model/layers/context.h"
#include "model/pipeline/schedule.h"

namespace pg::app {

enum class LrKind { kCosine, kWsd, kLinear, kConstant };

struct RunSection {
  std::string name, output;
  std::int64_t seed = 0;
  std::string device;  // "auto" | "cpu" | "cuda"
  DType precision = DType::kF32;
  std::int64_t threads = 0;        // per rank; 0: OMP_NUM_THREADS, else cores / ranks on this host
  std::int64_t stop_after = 0;     // 0: not set
  std::int64_t wall_limit = 0;     // s; 0: what the batch system leaves
  std::int64_t watchdog = 0;       // s without progress anywhere; 0: off
  std::int64_t replica_check = 0;  // steps; 0: off
  bool operator==(const RunSection&) const = default;
};

struct GridSection {
  std::int64_t dp = 0, tp = 1, pp = 1, ep = 1, cp = 1;  // dp 0: what is left of the ranks
  std::int64_t zero = 0;
  bool sequence_parallel = false;
  bool operator==(const GridSection&) const = default;
};

struct PipelineSection {
  model::ScheduleKind schedule = model::ScheduleKind::k1F1B;
  std::int64_t chunks = 1;  // model chunks of each stage
  bool operator==(const PipelineSection&) const = default;
};

struct ContextSection {
  model::ContextMethod method = model::ContextMethod::kRing;
  bool operator==(const ContextSection&) const = default;
};

struct RecomputeSection {
  model::Recompute mode = model::Recompute::kNone;
  std::int64_t layers = 0;  // the model's first ones; 0: all
  bool operator==(const RecomputeSection&) const = default;
};

struct DataSection {
  std::string train, valid;       // HDF5 token files; valid may be empty
  std::vector<std::string> text;  // files and globs for `prepare`
  std::string tokenizer;          // "bytes", or the SentencePiece .model (made when missing)
  bool mask_documents = false;    // attention stays inside the documents of a sequence
  bool operator==(const DataSection&) const = default;
};

struct TrainSection {
  std::int64_t steps = 0, seq = 0, global_batch = 0, micro_batch = 0;
  std::int64_t eval_every = 0;    // 0: only at the end, when data.valid is set
  std::int64_t eval_batches = 0;  // global batches an evaluation reads
  double spike_sigma = 0;         // 0: off
  std::int64_t max_skips = 5;     // in a row
  bool operator==(const TrainSection&) const = default;
};

struct OptimizerSection {
  std::string kind;  // "adamw"
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  double clip = 0;  // 0: off
  bool operator==(const OptimizerSection&) const = default;
};

struct ScheduleSection {
  LrKind kind = LrKind::kCosine;
  std::int64_t warmup = 0;
  double min_lr = 0;
  std::int64_t decay = 0;  // wsd: length of the final decay, in steps
  bool operator==(const ScheduleSection&) const = default;
};

struct CheckpointSection {
  std::int64_t every = 0;       // 0: only on a stop
  std::int64_t keep = 0;        // the newest so many; 0: all
  std::int64_t keep_every = 0;  // and those of steps that this divides; 0: no others
  std::string resume;           // "none" | "auto" | "latest" | path
  bool async = false, verify = false;
  std::vector<std::string> overrides;  // keys that may differ from those of the checkpoint
  std::vector<std::string> hints;      // "NAME=VALUE" for MPI_Info
  std::int64_t alignment = 4096;       // bytes, of large tensors in the file
  bool operator==(const CheckpointSection&) const = default;
};

struct LogSection {
  std::int64_t every = 0;
  double straggler = 0;  // times the median; 0: off
  bool operator==(const LogSection&) const = default;
};

struct Deck {
  RunSection run;
  GridSection grid;
  PipelineSection pipeline;
  ContextSection context;
  RecomputeSection recompute;
  model::ModelConfig model;  // with the [moe] section
  DataSection data;
  TrainSection train;
  OptimizerSection optimizer;
  ScheduleSection schedule;
  CheckpointSection checkpoint;
  LogSection log;

  // The same deck as canonical TOML with every key, defaults included: what a run stores and
  // prints. Reading it again gives an equal Deck.
  std::string resolved;

  bool operator==(const Deck&) const = default;
};

// The grid for `ranks` ranks: fills in dp = 0. Error kDeck naming grid.* when the product is not
// `ranks`.
comm::GridShape grid_of(const Deck& deck, int ranks);
// What is wrong with `grid` on `ranks` ranks, with the legal values of dp; empty when nothing is.
std::string grid_problem(const GridSection& grid, int ranks);

}  // namespace pg::app
