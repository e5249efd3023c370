// The table: every key of the deck once, with type, default, range, unit and meaning. The rows of
// [model] and [moe] stand in app/schema_model_rows.cpp, those of saving, logging and what is not
// training in app/schema_saving_rows.cpp.
//
// Ranges bound every product of sizes that the program forms to less than 2^63.
#include "app/schema.h"
#include "app/schema_row.h"

namespace pg::app {
namespace {

constexpr double kSecondsMax = 366 * 86400;

std::vector<Row> run_and_grid_rows() {
  const auto run = &Deck::run;
  const auto grid = &Deck::grid;
  const auto pipeline = &Deck::pipeline;
  const auto recompute = &Deck::recompute;
  using Run = RunSection;
  using Grid = GridSection;
  using Pipeline = PipelineSection;
  using Recomputing = RecomputeSection;
  using model::ContextMethod;
  using model::Recompute;
  using model::ScheduleKind;
  return {
      {.name = "run.name",
       .field = at(run, &Run::name),
       .fallback_text = "the file's name",
       .doc = "Name of the run; no slash."},
      {.name = "run.output",
       .field = at(run, &Run::output),
       .fallback_text = "runs/NAME",
       .doc = "Folder of metrics, checkpoints and the resolved deck."},
      {.name = "run.seed",
       .field = at(run, &Run::seed),
       .fallback = 1,
       .range = between(0, 9007199254740991.0),
       .doc = "Seed of initial values, dropout and sample order; the grid does not change them."},
      {.name = "run.device",
       .field = at(run, &Run::device, {"auto", "cpu", "cuda"}),
       .fallback = "auto",
       .doc = "Where the mathematics runs. auto: on GPUs where every rank has one, on CPUs where "
              "none has."},
      {.name = "run.precision",
       .field = at(run, &Run::precision, {"fp64", "fp32", "bf16"},
                   {DType::kF64, DType::kF32, DType::kBF16}),
       .fallback = "bf16",
       .doc =
           "bf16: weights and activations in bf16; master weights, moments, gradient sums, losses "
           "and norms in fp32. fp64 is for proofs."},
      {.name = "run.threads",
       .field = at(run, &Run::threads),
       .fallback = 0,
       .range = between(0, 4096),
       .unit = "threads",
       .doc = "Threads of each rank. 0: OMP_NUM_THREADS if it is set, else the host's cores over "
              "its ranks."},
      {.name = "run.stop_after",
       .field = at(run, &Run::stop_after),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Stop once this step is done, as a signal would: checkpoint, exit 75. The schedule "
              "still aims at train.steps. 0: off."},
      {.name = "run.wall_limit",
       .field = at(run, &Run::wall_limit),
       .fallback = 0,
       .range = between(0, kSecondsMax),
       .unit = "s",
       .doc = "Stop, as a signal would, early enough to have saved this long after the start. 0: "
              "what Slurm leaves the job, outside of it no limit."},
      {.name = "run.watchdog",
       .field = at(run, &Run::watchdog),
       .fallback = 1800,
       .range = between(0, kSecondsMax),
       .unit = "s",
       .doc = "When no rank has come on for so long, report where each stands and end with exit "
              "code 6. 0: off."},
      {.name = "run.replica_check",
       .field = at(run, &Run::replica_check),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Compare the copies of all weights, bit for bit, every so many steps; exit code 7 "
              "naming the rank that differs. 0: off."},

      {.name = "grid.dp",
       .field = at(grid, &Grid::dp),
       .fallback = 0,
       .range = between(0, 1 << 20),
       .unit = "ranks",
       .doc =
           "Data-parallel ranks. 0: all that the other axes leave; where a run that resumes finds "
           "more ranks than fit, the most that fit: the others are idle."},
      {.name = "grid.tp",
       .field = at(grid, &Grid::tp),
       .fallback = 1,
       .range = between(1, 1 << 12),
       .unit = "ranks",
       .doc = "Tensor-parallel ranks: heads, feed-forward width and vocabulary are cut over them. "
              "KV heads fewer than tp are replicated."},
      {.name = "grid.pp",
       .field = at(grid, &Grid::pp),
       .fallback = 1,
       .range = between(1, 1 << 12),
       .unit = "ranks",
       .doc = "Pipeline stages; layers are spread over them by cost."},
      {.name = "grid.ep",
       .field = at(grid, &Grid::ep),
       .fallback = 1,
       .range = between(1, 1 << 12),
       .unit = "ranks",
       .doc = "Expert-parallel ranks: each holds an equal part of every block's experts and, like "
              "dp ranks, sequences of its own. A divisor of moe.experts."},
      {.name = "grid.cp",
       .field = at(grid, &Grid::cp),
       .fallback = 1,
       .range = between(1, 1 << 12),
       .unit = "ranks",
       .doc = "Context-parallel ranks: each holds a part of every sequence, for sequences that are "
              "too long for one; see context.method."},
      {.name = "grid.zero",
       .field = at(grid, &Grid::zero),
       .fallback = 0,
       .range = between(0, 3),
       .doc = "What the replicas of a parameter share out: 0 nothing, 1 optimizer state, 2 and "
              "gradients, 3 and parameters."},
      {.name = "grid.sequence_parallel",
       .field = at(grid, &Grid::sequence_parallel),
       .fallback = false,
       .doc = "Norms, dropout and the residual stream are cut over tp too; seq / cp is a multiple "
              "of tp."},

      {.name = "pipeline.schedule",
       .field = at(pipeline, &Pipeline::schedule, {"gpipe", "1f1b", "interleaved", "zero_bubble"},
                   {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kInterleaved,
                    ScheduleKind::k1F1B}),
       .fallback = "1f1b",
       .later = {"zero_bubble"},
       .doc = "Order of forwards and backwards. interleaved needs chunks >= 2 and micro-batches "
              "that are a multiple of pp."},
      {.name = "pipeline.chunks",
       .field = at(pipeline, &Pipeline::chunks),
       .fallback = 1,
       .range = between(1, 1 << 10),
       .doc = "Model chunks of each stage, for interleaved."},
      {.name = "context.method",
       .field = at(&Deck::context, &ContextSection::method, {"ring", "ulysses", "allgather"},
                   {ContextMethod::kRing, ContextMethod::kUlysses, ContextMethod::kAllGather}),
       .fallback = "ring",
       .doc = "How attention sees the other parts of a sequence. ring: keys and values are passed "
              "around, and none are kept; allgather: every rank gathers all of them; ulysses: for "
              "attention, heads are cut instead of the sequence."},
      {.name = "recompute.mode",
       .field = at(recompute, &Recomputing::mode, {"none", "selective", "full"},
                   {Recompute::kNone, Recompute::kSelective, Recompute::kFull}),
       .fallback = "none",
       .doc = "What backward computes again instead of keeping it. selective: attention, norms and "
              "feed-forward activations; full: all of a block but its input."},
      {.name = "recompute.layers",
       .field = at(recompute, &Recomputing::layers),
       .fallback = 0,
       .range = between(0, 1 << 14),
       .doc = "Only the model's first so many blocks. 0: all."},
  };
}

std::vector<Row> training_rows() {
  const auto data = &Deck::data;
  const auto train = &Deck::train;
  const auto optimizer = &Deck::optimizer;
  const auto schedule = &Deck::schedule;
  using Data = DataSection;
  using Train = TrainSection;
  using Optimizer = OptimizerSection;
  using Schedule = ScheduleSection;
  return {
      {.name = "data.train",
       .field = at(data, &Data::train),
       .needed_by = kTraining | kPreparing,
       .doc = "HDF5 token file to train on; `prepare` writes it."},
      {.name = "data.valid",
       .field = at(data, &Data::valid),
       .fallback = "",
       .doc = "HDF5 token file for the validation loss; `prepare` writes it only when it is set."},
      {.name = "data.text",
       .field = at(data, &Data::text),
       .needed_by = kPreparing,
       .fallback = std::vector<std::string>{},
       .doc =
           "Text for `prepare`, plain or gzip: a path, a glob (** for any depth), or an array of "
           "them."},
      {.name = "data.tokenizer",
       .field = at(data, &Data::tokenizer),
       .fallback = "bytes",
       .doc = "\"bytes\" (the 256 byte values), or a SentencePiece .model file, which `prepare` "
              "trains when it is missing."},
      {.name = "data.mask_documents",
       .field = at(data, &Data::mask_documents),
       .fallback = false,
       .doc =
           "Attention stays inside the documents that a sequence is packed from, and no document "
           "predicts the first token of the next. Positions go on counting."},

      {.name = "train.steps",
       .field = at(train, &Train::steps),
       .needed_by = kTraining,
       .range = between(1, kStepsMax),
       .unit = "steps",
       .doc = "Updates of the whole run."},
      {.name = "train.seq",
       .field = at(train, &Train::seq),
       .needed_by = kTraining,
       .range = between(1, 1 << 20),
       .unit = "tokens",
       .doc = "Length of a sequence."},
      {.name = "train.global_batch",
       .field = at(train, &Train::global_batch),
       .needed_by = kTraining,
       .range = between(1, 1 << 20),
       .unit = "sequences",
       .doc = "Sequences of one update; a multiple of dp*ep*micro_batch."},
      {.name = "train.micro_batch",
       .field = at(train, &Train::micro_batch),
       .needed_by = kTraining,
       .range = between(1, 1 << 20),
       .unit = "sequences",
       .doc = "Sequences a rank holds at once; gradients of several are summed."},
      {.name = "train.eval_every",
       .field = at(train, &Train::eval_every),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Validation loss every so many steps. 0: only at the end, when data.valid is set."},
      {.name = "train.eval_batches",
       .field = at(train, &Train::eval_batches),
       .fallback = 8,
       .range = between(1, 1 << 20),
       .unit = "global batches",
       .doc =
           "How much of data.valid an evaluation reads. A stop cuts it short between two of them; "
           "the next start does it again, once."},
      {.name = "train.spike_sigma",
       .field = at(train, &Train::spike_sigma),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Skip the update of a step whose loss lies more than so many standard deviations "
              "above the mean of the last ones. 0: off. Steps whose loss or gradient is not finite "
              "are always skipped."},
      {.name = "train.max_skips",
       .field = at(train, &Train::max_skips),
       .fallback = 5,
       .range = between(1, kStepsMax),
       .unit = "steps",
       .doc = "Skipped in a row, they end the run with exit code 7."},

      {.name = "optimizer.kind",
       .field = at(optimizer, &Optimizer::kind, {"adamw"}),
       .fallback = "adamw",
       .doc = "AdamW; weight decay acts on matrices only."},
      {.name = "optimizer.lr",
       .field = at(optimizer, &Optimizer::lr),
       .fallback = 3e-4,
       .range = at_least(0),
       .doc = "Peak learning rate."},
      {.name = "optimizer.beta1",
       .field = at(optimizer, &Optimizer::beta1),
       .fallback = 0.9,
       .range = fraction(),
       .doc = "Decay of the first moment."},
      {.name = "optimizer.beta2",
       .field = at(optimizer, &Optimizer::beta2),
       .fallback = 0.95,
       .range = fraction(),
       .doc = "Decay of the second moment."},
      {.name = "optimizer.eps",
       .field = at(optimizer, &Optimizer::eps),
       .fallback = 1e-8,
       .range = at_least(1e-30),
       .doc = "Added to the root of the second moment."},
      {.name = "optimizer.weight_decay",
       .field = at(optimizer, &Optimizer::weight_decay),
       .fallback = 0.1,
       .range = at_least(0),
       .doc = "Decoupled: times the learning rate."},
      {.name = "optimizer.clip",
       .field = at(optimizer, &Optimizer::clip),
       .fallback = 1.0,
       .range = at_least(0),
       .doc = "Largest global norm of the gradient. 0: off."},

      {.name = "schedule.kind",
       .field = at(schedule, &Schedule::kind, {"cosine", "wsd", "linear", "constant"},
                   {LrKind::kCosine, LrKind::kWsd, LrKind::kLinear, LrKind::kConstant}),
       .fallback = "cosine",
       .doc = "Course of the learning rate; formulas below."},
      {.name = "schedule.warmup",
       .field = at(schedule, &Schedule::warmup),
       .fallback = 0,
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "Linear rise from 0 to lr."},
      {.name = "schedule.min_lr",
       .field = at(schedule, &Schedule::min_lr),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Learning rate at the last step; absolute, at most lr."},
      {.name = "schedule.decay",
       .field = at(schedule, &Schedule::decay),
       .fallback_text = "steps / 5 for wsd",
       .range = between(0, kStepsMax),
       .unit = "steps",
       .doc = "wsd only: length of the final decay."},
  };
}

}  // namespace

const std::vector<SchemaKey>& deck_schema() {
  static const auto table = [] {
    std::vector<SchemaKey> out;
    for (auto* rows : {&run_and_grid_rows, &model_rows, &moe_rows, &training_rows, &saving_rows}) {
      for (auto& row : rows()) out.push_back(schema_key(std::move(row)));
    }
    return out;
  }();
  return table;
}

}  // namespace pg::app
