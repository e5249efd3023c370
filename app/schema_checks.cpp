// What several keys decide together: defaults that depend on others, and what does not fit.
//
// A check runs only when none of its keys was refused already, and when all of them are known (a
// command such as `prepare` does not need them all): one mistake, one message.
#include <algorithm>
#include <filesystem>
#include <utility>

#include "app/expert_checks.h"
#include "app/hint_checks.h"
#include "app/parallel_plan.h"
#include "app/ranks_in_use.h"
#include "app/resume_check.h"
#include "app/schema.h"
#include "comm/error.h"

namespace pg::app {
namespace {

constexpr std::int64_t kRanksMax = 1 << 20;

std::int64_t other_ranks(const GridSection& grid) {
  return grid.tp * grid.pp * grid.ep * grid.cp;
}

// Of a grid that fits `ranks`. Without a number of ranks dp may not be known yet: one is the least
// demand on batch sizes.
std::int64_t data_ranks(const GridSection& grid, int ranks) {
  return ranks > 0 ? ranks / other_ranks(grid) : std::max<std::int64_t>(grid.dp, 1);
}

// The key of a grid that does not fit: dp when there is a legal one, else the first axis that does
// not divide what the ones before it leave of the ranks.
const char* axis_to_change(const GridSection& grid, int ranks) {
  if (ranks % other_ranks(grid) == 0) return "grid.dp";
  std::int64_t product = 1;
  for (const auto& [key, size] : {std::pair{"grid.tp", grid.tp},
                                  {"grid.pp", grid.pp},
                                  {"grid.ep", grid.ep},
                                  {"grid.cp", grid.cp}}) {
    product *= size;
    if (ranks % product != 0) return key;
  }
  return "grid.dp";
}

void check_grid(const Deck& deck, io::DeckReader& reader, int ranks) {
  const auto& grid = deck.grid;
  const auto& train = deck.train;
  if (ranks > 0) {
    if (const auto problem = grid_problem(grid, ranks); !problem.empty()) {
      return reader.refuse(axis_to_change(grid, ranks), problem);
    }
  } else if (const auto all = std::max<std::int64_t>(grid.dp, 1) * other_ranks(grid);
             all > kRanksMax) {
    return reader.refuse(
        grid.dp > 1 ? "grid.dp" : axis_to_change(grid, 1),
        fmt::format("the axes' product is {} ranks; {} is the limit", all, kRanksMax));
  }
  if (train.global_batch <= 0 || train.micro_batch <= 0) return;
  if (train.global_batch % train.micro_batch != 0) {
    return reader.refuse(
        "train.global_batch",
        fmt::format("{} is not a multiple of micro_batch = {}; nearest: {}", train.global_batch,
                    train.micro_batch, multiples_text(train.global_batch, train.micro_batch)));
  }
  const auto dp = data_ranks(grid, ranks);
  const auto at_once = dp * grid.ep * train.micro_batch;
  if (train.global_batch % at_once != 0) {
    reader.refuse(
        "train.global_batch",
        fmt::format("{} is not a multiple of dp*ep*micro_batch = {}*{}*{} = {}; nearest: {}; with "
                    "this batch dp*ep may be {}",
                    train.global_batch, dp, grid.ep, train.micro_batch, at_once,
                    multiples_text(train.global_batch, at_once),
                    divisors_text(train.global_batch / train.micro_batch)));
  }
}

void check_recompute(const Deck& deck, io::DeckReader& reader) {
  if (reader.sound({"recompute.mode", "recompute.layers"}) && deck.recompute.layers > 0 &&
      deck.recompute.mode == model::Recompute::kNone) {
    reader.refuse("recompute.layers", "recompute.mode = \"none\" recomputes no layers (legal: 0)");
  }
}

// How the model is cut over the ranks that share it.
void check_cuts(const Deck& deck, io::DeckReader& reader) {
  if (!reader.sound({"grid.tp", "grid.pp", "grid.ep", "grid.cp", "grid.sequence_parallel",
                     "context.method", "model.heads", "model.kv_heads", "model.ffn", "model.vocab",
                     "model.layers", "moe.experts", "moe.ffn", "moe.every", "train.seq"})) {
    return;
  }
  for (const auto& problem : cut_problems(deck)) {
    if (reader.sound({problem.key.c_str()})) reader.refuse(problem.key, problem.what);
  }
}

void check_schedule(const Deck& deck, io::DeckReader& reader, int ranks) {
  if (!reader.sound({"grid.dp", "grid.tp", "grid.pp", "grid.ep", "grid.cp", "pipeline.schedule",
                     "pipeline.chunks", "model.layers", "train.global_batch",
                     "train.micro_batch"})) {
    return;
  }
  for (const auto& problem : schedule_problems(deck, data_ranks(deck.grid, ranks))) {
    reader.refuse(problem.key, problem.what);
  }
}

// Those that the grid will take, where the keys that tell are sound.
int ranks_to_check(const Deck& deck, const io::DeckReader& reader, bool axes, int ranks) {
  const bool sound = axes && reader.sound({"train.global_batch", "train.micro_batch",
                                           "pipeline.chunks", "checkpoint.resume"});
  return sound && ranks > 0 ? ranks_in_use(deck, ranks) : ranks;
}

void check_model(const Deck& deck, io::DeckReader& reader) {
  const auto& model = deck.model;
  if (reader.sound({"model.heads", "model.kv_heads"}) && model.heads > 0 && model.kv_heads > 0 &&
      model.heads % model.kv_heads != 0) {
    reader.refuse("model.kv_heads",
                  fmt::format("{} does not divide heads = {}; legal: {}", model.kv_heads,
                              model.heads, divisors_text(model.heads)));
  }
  if (!reader.sound({"model.hidden", "model.heads", "model.head_dim", "model.position"})) return;
  const bool derived = !reader.given("model.head_dim");
  if (derived && model.heads > 0 && model.hidden % model.heads != 0) {
    return reader.refuse("model.heads",
                         fmt::format("{} does not divide hidden = {}; set model.head_dim, or heads "
                                     "to one of {}",
                                     model.heads, model.hidden, divisors_text(model.hidden)));
  }
  if (model.position == model::PositionKind::kRope && model.head_dim % 2 != 0) {
    reader.refuse("model.head_dim",
                  fmt::format("{}{} is odd; rope turns pairs of elements",
                              derived ? "hidden / heads = " : "", model.head_dim));
  }
}

// A rotary base without rotary positions would be ignored.
void check_positions(const Deck& deck, io::DeckReader& reader) {
  if (!reader.sound({"model.position", "model.rope_theta"})) return;
  const double unset = model::ModelConfig{}.rope_theta;
  if (deck.model.position != model::PositionKind::kRope && deck.model.rope_theta != unset) {
    reader.refuse("model.rope_theta",
                  fmt::format("only model.position = \"rope\" has a base (legal: {})", unset));
  }
}

void check_training(const Deck& deck, io::DeckReader& reader) {
  const auto& train = deck.train;
  if (reader.sound({"train.seq", "model.max_seq"}) && train.seq > deck.model.max_seq) {
    reader.refuse("train.seq", fmt::format("{} is longer than model.max_seq = {}", train.seq,
                                           deck.model.max_seq));
  }
  if (reader.sound({"train.eval_every", "data.valid"}) && train.eval_every > 0 &&
      deck.data.valid.empty()) {
    reader.refuse("train.eval_every", "it needs data.valid; 0 turns evaluation off");
  }
  const auto& schedule = deck.schedule;
  if (reader.sound({"optimizer.lr", "schedule.min_lr"}) && schedule.min_lr > deck.optimizer.lr) {
    reader.refuse("schedule.min_lr",
                  fmt::format("{} is above optimizer.lr = {}", schedule.min_lr, deck.optimizer.lr));
  }
  if (reader.sound({"schedule.kind", "schedule.min_lr"}) && schedule.kind == LrKind::kConstant &&
      schedule.min_lr != 0) {
    reader.refuse("schedule.min_lr", "schedule.kind = \"constant\" has no least rate (legal: 0)");
  }
  if (reader.sound({"schedule.kind", "schedule.decay"}) && schedule.kind != LrKind::kWsd &&
      schedule.decay != 0) {
    reader.refuse("schedule.decay", "only schedule.kind = \"wsd\" has a final decay (legal: 0)");
  }
  if (!reader.sound({"train.steps", "schedule.warmup"}) || train.steps == 0) return;
  if (schedule.warmup > train.steps) {
    reader.refuse("schedule.warmup",
                  fmt::format("{} is more than train.steps = {}", schedule.warmup, train.steps));
  } else if (reader.sound({"schedule.kind", "schedule.decay"}) && schedule.kind == LrKind::kWsd &&
             schedule.warmup + schedule.decay > train.steps) {
    reader.refuse("schedule.decay",
                  fmt::format("warmup + decay = {} + {} is more than train.steps = {}",
                              schedule.warmup, schedule.decay, train.steps));
  }
}

// What no machine holds is refused before sizes are multiplied: the products stay below 2^63.
void check_sizes(const Deck& deck, io::DeckReader& reader) {
  constexpr double kBytesMax = 0x1p50;   // 1 PiB of activations on a rank
  constexpr double kTokensMax = 0x1p62;  // of a whole run
  if (!reader.sound({"model.layers", "model.hidden", "model.heads", "model.head_dim", "model.ffn",
                     "model.vocab", "moe.experts", "moe.top_k", "moe.ffn", "moe.shared_experts",
                     "moe.every", "grid.ep", "train.seq", "train.micro_batch"})) {
    return;
  }
  const auto& m = deck.model;
  const auto& train = deck.train;
  const auto tokens = static_cast<double>(train.micro_batch) * static_cast<double>(train.seq);
  const auto block = static_cast<double>(m.layers) *
                     static_cast<double>(8 * m.hidden + 4 * m.q_width() + 4 * m.ffn);
  const double bytes = tokens *
                       (block + expert_elements_a_token(deck) + static_cast<double>(m.vocab)) *
                       sizeof(double);
  if (bytes > kBytesMax) {
    reader.refuse("train.micro_batch",
                  fmt::format("{} sequences of {} tokens need about {:.1e} bytes of activations; "
                              "{:.1e} is the limit",
                              train.micro_batch, train.seq, bytes, kBytesMax));
  }
  const double run = static_cast<double>(train.steps) * static_cast<double>(train.global_batch) *
                     static_cast<double>(train.seq);
  if (reader.sound({"train.steps", "train.global_batch"}) && run > kTokensMax) {
    reader.refuse("train.steps", fmt::format("steps*global_batch*seq = {:.1e} tokens; {:.1e} is "
                                             "the limit",
                                             run, kTokensMax));
  }
}

void check_data(const Deck& deck, io::DeckReader& reader, Purpose purpose) {
  constexpr std::int64_t kByteTokens = 256;
  const auto& data = deck.data;
  if (reader.sound({"data.train", "data.valid"}) && !data.train.empty() &&
      std::filesystem::path(data.train).lexically_normal() ==
          std::filesystem::path(data.valid).lexically_normal()) {
    reader.refuse("data.valid", "it is the same file as data.train");
  }
  if (purpose == Purpose::kPrepare && data.tokenizer == "bytes" &&
      reader.sound({"data.tokenizer", "model.vocab"}) && deck.model.vocab < kByteTokens) {
    reader.refuse("model.vocab", fmt::format("{} is less than the {} tokens of \"bytes\"",
                                             deck.model.vocab, kByteTokens));
  }
}

// Names in checkpoint.override are keys of the deck that can differ.
void check_overrides(const Deck& deck, io::DeckReader& reader) {
  if (!reader.sound({"checkpoint.override"})) return;
  std::vector<std::string> known;
  for (const auto& key : deck_keys()) known.push_back(key.name());
  for (const auto& name : deck.checkpoint.overrides) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const auto near = io::nearest(name, known);
      return reader.refuse("checkpoint.override",
                           fmt::format("\"{}\" is no key of the deck{}", io::one_line(name),
                                       near.empty() ? "" : " (nearest: " + near + ")"));
    }
    if (const auto why = why_no_override(name); !why.empty()) {
      return reader.refuse("checkpoint.override",
                           fmt::format("{} cannot be overridden: {}", name, why));
    }
  }
}

}  // namespace

void derive_defaults(Deck& deck, const io::DeckReader& reader, const std::string& file) {
  auto& model = deck.model;
  if (!reader.given("run.name")) {
    deck.run.name = io::one_line(std::filesystem::path(file).stem().string());
  }
  if (!reader.given("run.output")) deck.run.output = "runs/" + deck.run.name;
  if (!reader.given("model.kv_heads")) model.kv_heads = model.heads;
  if (!reader.given("model.head_dim") && model.heads > 0) {
    model.head_dim = model.hidden / model.heads;
  }
  if (!reader.given("model.ffn")) {
    const auto wide = (8 * model.hidden + 2) / 3;
    model.ffn =
        model.activation == model::Activation::kGelu ? 4 * model.hidden : (wide + 63) / 64 * 64;
  }
  if (!reader.given("moe.ffn")) model.moe.ffn = model.ffn;
  if (model.moe.router == model::RouterKind::kSwitch && !reader.given("moe.top_k")) {
    model.moe.top_k = 1;
  }
  if (model.moe.router != model::RouterKind::kTopK && !reader.given("moe.renormalize")) {
    model.moe.renormalize = false;
  }
  if (!reader.given("model.max_seq")) model.max_seq = deck.train.seq;
  if (!reader.given("schedule.decay")) {
    const auto fifth = std::max<std::int64_t>(deck.train.steps / 5, 1);
    deck.schedule.decay = deck.schedule.kind == LrKind::kWsd ? fifth : 0;
  }
}

void cross_check(const Deck& deck, io::DeckReader& reader, Purpose purpose, int ranks) {
  const auto& name = deck.run.name;
  if (reader.sound({"run.name"}) && (name.find('/') != name.npos || name == "." || name == "..")) {
    reader.refuse("run.name",
                  "it names a folder below runs/ and takes no slash; run.output takes "
                  "a path");
  }
  check_model(deck, reader);
  check_experts(deck, reader);
  if (purpose != Purpose::kPrepare) {
    // An axis may fit the ranks and not the model, and the reverse: two mistakes.
    const bool axes = reader.sound({"grid.dp", "grid.tp", "grid.pp", "grid.ep", "grid.cp"});
    check_recompute(deck, reader);
    check_cuts(deck, reader);
    const int used = ranks_to_check(deck, reader, axes, ranks);
    if (axes) check_grid(deck, reader, used);
    check_schedule(deck, reader, used);
  }
  check_positions(deck, reader);
  check_training(deck, reader);
  check_sizes(deck, reader);
  check_data(deck, reader, purpose);
  check_overrides(deck, reader);
  if (reader.sound({"checkpoint.hints"})) {
    if (const auto problem = hints_problem(deck.checkpoint.hints); !problem.empty()) {
      reader.refuse("checkpoint.hints", problem);
    }
  }
}

}  // namespace pg::app
