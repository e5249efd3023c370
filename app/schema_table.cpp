// The table: every key of the deck once, with type, default, range, unit and meaning.
//
// Ranges bound every product of sizes that the program forms to less than 2^63.
#include "app/schema.h"
#include "app/schema_row.h"

namespace pg::app {
namespace {

using model::ModelConfig;

constexpr unsigned kTraining =
    static_cast<unsigned>(Purpose::kTrain) | static_cast<unsigned>(Purpose::kCheck);
constexpr unsigned kPreparing = static_cast<unsigned>(Purpose::kPrepare);
constexpr double kStepsMax = 999999999;  // nine digits in a checkpoint's name

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
       .later = {"cuda"},
       .doc = "Where the mathematics runs."},
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
      reserved("run.wall_limit", 0),
      reserved("run.watchdog", 0),
      reserved("run.replica_check", 0),

      {.name = "grid.dp",
       .field = at(grid, &Grid::dp),
       .fallback = 0,
       .range = between(0, 1 << 20),
       .unit = "ranks",
       .doc = "Data-parallel ranks. 0: all that the other axes leave."},
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
       .doc = "Context-parallel ranks: each holds a part of every sequence; see context.method."},
      {.name = "grid.zero",
       .field = at(grid, &Grid::zero),
       .fallback = 0,
       .range = between(0, 3),
       .doc = "What the replicas of a parameter share out: 0 nothing, 1 optimizer state, 2 and "
              "gradients, 3 and parameters."},
      {.name = "grid.sequence_parallel",
       .field = at(grid, &Grid::sequence_parallel),
       .fallback = false,
       .doc = "Norms, dropout and the residual stream are cut over tp too."},

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
              "around; allgather: every rank gathers them (both need seq % (2 cp) = 0); ulysses: "
              "heads are cut instead of the sequence meanwhile (heads / tp a multiple of cp)."},
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

std::vector<Row> model_rows() {
  const auto model = &Deck::model;
  using M = ModelConfig;
  using model::Activation;
  using model::NormKind;
  using model::PositionKind;
  return {
      {.name = "model.layers",
       .field = at(model, &M::layers),
       .needed_by = kTraining,
       .range = between(1, 1 << 14),
       .doc = "Transformer blocks."},
      {.name = "model.hidden",
       .field = at(model, &M::hidden),
       .needed_by = kTraining,
       .range = between(1, 1 << 18),
       .doc = "Width of the residual stream."},
      {.name = "model.heads",
       .field = at(model, &M::heads),
       .needed_by = kTraining,
       .range = between(1, 1 << 12),
       .doc = "Query heads."},
      {.name = "model.kv_heads",
       .field = at(model, &M::kv_heads),
       .fallback_text = "heads",
       .range = between(1, 1 << 12),
       .doc =
           "Key and value heads; a divisor of heads. 1: multi-query, fewer than heads: grouped."},
      {.name = "model.head_dim",
       .field = at(model, &M::head_dim),
       .fallback_text = "hidden / heads",
       .range = between(1, 1 << 10),
       .doc = "Width of one head; even with rope."},
      {.name = "model.ffn",
       .field = at(model, &M::ffn),
       .fallback_text = "4 or 8/3 of hidden",
       .range = between(1, 1 << 22),
       .doc = "Width of the feed-forward layer. Default: 4 hidden for gelu; for swiglu 8/3 hidden, "
              "rounded up to a multiple of 64."},
      {.name = "model.vocab",
       .field = at(model, &M::vocab),
       .needed_by = kTraining | kPreparing,
       .range = between(2, 1 << 24),
       .unit = "tokens",
       .doc = "Rows of the embedding; may exceed the tokenizer's size. `prepare` makes a tokenizer "
              "of this size."},
      {.name = "model.max_seq",
       .field = at(model, &M::max_seq),
       .fallback_text = "train.seq",
       .range = between(1, 1 << 20),
       .unit = "tokens",
       .doc = "Longest sequence: rows of learned positions."},
      {.name = "model.norm",
       .field = at(model, &M::norm, {"rmsnorm", "layernorm"},
                   {NormKind::kRmsNorm, NormKind::kLayerNorm}),
       .fallback = "rmsnorm",
       .doc = "Normalisation before each branch and before the head."},
      {.name = "model.norm_eps",
       .field = at(model, &M::norm_eps),
       .fallback = 1e-5,
       .range = {.low = 0, .high = 1, .low_open = true, .high_open = true},
       .doc = "Added to the variance (mean square) under the root."},
      {.name = "model.activation",
       .field =
           at(model, &M::activation, {"swiglu", "gelu"}, {Activation::kSwiGlu, Activation::kGelu}),
       .fallback = "swiglu",
       .doc = "Feed-forward layer; gelu in its tanh form."},
      {.name = "model.position",
       .field = at(model, &M::position, {"rope", "learned"},
                   {PositionKind::kRope, PositionKind::kLearned}),
       .fallback = "rope",
       .doc = "Rotary or learned absolute positions."},
      {.name = "model.rope_theta",
       .field = at(model, &M::rope_theta),
       .fallback = 10000.0,
       .range = above(0),
       .doc = "Base of the rotary frequencies."},
      {.name = "model.bias",
       .field = at(model, &M::bias),
       .fallback = false,
       .doc = "Biases on every linear layer but the head, and on layernorm."},
      {.name = "model.tie_embeddings",
       .field = at(model, &M::tie_embeddings),
       .fallback = false,
       .doc = "The head shares the embedding's weights."},
      {.name = "model.dropout",
       .field = at(model, &M::dropout),
       .fallback = 0.0,
       .range = fraction(),
       .doc = "Probability, after the embedding, on attention weights and on both branches."},
      {.name = "model.window",
       .field = at(model, &M::window),
       .fallback = 0,
       .range = between(0, 1 << 20),
       .unit = "tokens",
       .doc = "Sliding attention window. 0: all earlier tokens."},

  };
}

std::vector<Row> moe_rows() {
  const auto model = &Deck::model;
  const auto moe = &ModelConfig::moe;
  using M = model::MoeConfig;
  using model::RouterKind;
  return {
      {.name = "moe.experts",
       .field = at(model, moe, &M::experts),
       .fallback = 0,
       .range = between(0, 1 << 12),
       .doc = "Experts of a block's feed-forward layer. 0: dense."},
      {.name = "moe.top_k",
       .field = at(model, moe, &M::top_k),
       .fallback = 2,
       .fallback_text = "2; 1 for switch",
       .range = between(1, 1 << 12),
       .doc = "Experts of a token; with expert_choice on average."},
      {.name = "moe.ffn",
       .field = at(model, moe, &M::ffn),
       .fallback_text = "model.ffn",
       .range = between(1, 1 << 22),
       .doc = "Width of one expert."},
      {.name = "moe.router",
       .field = at(model, moe, &M::router, {"top_k", "switch", "expert_choice"},
                   {RouterKind::kTopK, RouterKind::kSwitch, RouterKind::kExpertChoice}),
       .fallback = "top_k",
       .doc = "top_k: each token takes its best experts. switch: its best one, weighted with that "
              "probability. expert_choice: each expert takes its top_k*seq/experts best tokens of "
              "a sequence; for training only, as it looks at later tokens."},
      {.name = "moe.renormalize",
       .field = at(model, moe, &M::renormalize),
       .fallback = true,
       .fallback_text = "true for top_k",
       .doc =
           "top_k only. true: a token's weights add up to 1, the softmax over its chosen experts "
           "(Mixtral). false: probabilities among all experts (Qwen)."},
      {.name = "moe.capacity_factor",
       .field = at(model, moe, &M::capacity_factor),
       .fallback = 0.0,
       .range = between(0, 1 << 12),
       .doc =
           "An expert takes at most ceil(capacity_factor*top_k*seq/experts) tokens of a sequence, "
           "the first ones; the others skip it. 0: all (dropless)."},
      {.name = "moe.shared_experts",
       .field = at(model, moe, &M::shared_experts),
       .fallback = 0,
       .range = between(0, 1 << 10),
       .doc = "Experts that every token goes through, as one layer of so many widths."},
      {.name = "moe.every",
       .field = at(model, moe, &M::every),
       .fallback = 1,
       .range = between(1, 1 << 14),
       .doc = "Only the last of every so many blocks has experts; the others are dense."},
      {.name = "moe.aux_loss",
       .field = at(model, moe, &M::aux_loss),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Factor of the load-balance loss."},
      {.name = "moe.z_loss",
       .field = at(model, moe, &M::z_loss),
       .fallback = 0.0,
       .range = at_least(0),
       .doc = "Factor of the router's z loss."},
      {.name = "moe.bias_update",
       .field = at(model, moe, &M::bias_update),
       .fallback = 0.0,
       .range = between(0, 1),
       .doc =
           "Balance without a loss: after each step, experts that were asked for less than the "
           "mean gain so much in the choice, the others lose it; weights do not change. 0: off."},
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
       .doc = "Attention stays inside the documents of a sequence, and no document predicts the "
              "first token of the next."},

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
       .doc = "How much of data.valid an evaluation reads."},
      reserved("train.spike_sigma", 0.0),

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
       .doc = "Newest ones to keep. 0: all."},
      reserved("checkpoint.keep_every", 0),
      {.name = "checkpoint.resume",
       .field = at(checkpoint, &Checkpoint::resume),
       .fallback = "none",
       .doc = "\"none\": start afresh, refused when run.output holds a run. \"latest\": the newest "
              "sound checkpoint, which must exist. \"auto\": latest if there is one, else none. "
              "Or the path of a checkpoint."},
      reserved("checkpoint.async", false),
      reserved("checkpoint.verify", false),
      reserved("checkpoint.override", std::vector<std::string>{}),

      {.name = "log.every",
       .field = at(&Deck::log, &LogSection::every),
       .fallback = 10,
       .range = between(1, kStepsMax),
       .unit = "steps",
       .doc = "A line on the console every so many steps; metrics.jsonl gets every step."},

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
