#include "app/parallel_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/context_checks.h"
#include "app/expert_checks.h"
#include "io/deck_format.h"

namespace pg::app {

model::Sharding sharding_of(const Deck& deck, const comm::GridShape& grid,
                            const comm::Coord& coord) {
  model::Sharding s;
  s.tp = grid.size(comm::Axis::kTP);
  s.tp_rank = coord[comm::Axis::kTP];
  s.sequence = deck.grid.sequence_parallel && s.tp > 1;
  s.pp = grid.size(comm::Axis::kPP);
  s.stage = coord[comm::Axis::kPP];
  s.chunks = static_cast<int>(deck.pipeline.chunks);
  s.ep = grid.size(comm::Axis::kEP);
  s.ep_rank = coord[comm::Axis::kEP];
  s.cp = grid.size(comm::Axis::kCP);
  s.cp_rank = coord[comm::Axis::kCP];
  s.context = deck.context.method;
  s.replicas = grid.size(comm::kDenseReplicas);
  s.replica = grid.index_in(coord, comm::kDenseReplicas);
  s.expert_replicas = grid.size(comm::kExpertReplicas);
  s.expert_replica = grid.index_in(coord, comm::kExpertReplicas);
  s.zero = static_cast<int>(deck.grid.zero);
  return s;
}

model::ParamLayout layout_of(const Deck& deck, const model::Sharding& sharding) {
  const auto all = model::split_layers(deck.model.layers, sharding.pp, sharding.chunks,
                                       model::layer_costs(deck.model, deck.train.seq));
  std::vector<model::StagePart> mine;
  for (auto v = sharding.stage; v < sharding.pp * sharding.chunks; v += sharding.pp) {
    mine.push_back(all[static_cast<std::size_t>(v)]);
  }
  return {deck.model, sharding, std::move(mine)};
}

model::PipelineOptions pipeline_options(const Deck& deck, const comm::GridShape& grid) {
  model::PipelineOptions options;
  options.schedule = deck.pipeline.schedule;
  options.recompute = {deck.recompute.mode, deck.recompute.layers};
  options.sequences = deck.train.micro_batch;
  options.seq = deck.train.seq;
  options.micro_batches = static_cast<int>(deck.train.global_batch /
                                           (grid.size(comm::kBatch) * deck.train.micro_batch));
  return options;
}

model::Groups groups_of(const Deck& deck, comm::ProcessGrid& grid) {
  const auto borrowed = [](comm::Group& group) {
    return std::shared_ptr<comm::Group>(std::shared_ptr<void>(), &group);
  };
  const int tp = grid.shape().size(comm::Axis::kTP);
  return {borrowed(grid.axis(comm::Axis::kTP)),
          grid.tensor_subgroup(model::kv_copies(tp, deck.model.kv_heads)),
          borrowed(grid.dense_replicas()),
          borrowed(grid.expert_replicas()),
          borrowed(grid.axis(comm::Axis::kEP)),
          borrowed(grid.axis(comm::Axis::kCP)),
          borrowed(grid.axis(comm::Axis::kPP)),
          borrowed(grid.pipeline_ends())};
}

namespace {

bool cuts_kv(std::int64_t kv_heads, std::int64_t tp) {
  return kv_heads % tp == 0 || tp % kv_heads == 0;
}

// Widths of feed-forward layers that no block has do not matter.
bool cuts_ffn(const model::ModelConfig& m, std::int64_t tp) {
  return (!has_dense_blocks(m) || m.ffn % tp == 0) &&
         (!has_expert_blocks(m) || m.moe.ffn % tp == 0);
}

// Every tp that all of the model's sizes allow.
std::string legal_tp(const model::ModelConfig& m) {
  std::vector<std::string> legal;
  for (std::int64_t tp = 1; tp <= m.heads; ++tp) {
    if (m.heads % tp == 0 && cuts_kv(m.kv_heads, tp) && cuts_ffn(m, tp) && m.vocab >= tp) {
      legal.push_back(std::to_string(tp));
    }
  }
  return io::comma_list(legal);
}

bool is_interleaved(const Deck& deck) {
  return deck.pipeline.schedule == model::ScheduleKind::kInterleaved;
}

// Interleaved on stages that cannot have two chunks each.
CutProblem interleaved_problem(const Deck& deck) {
  const auto pp = deck.grid.pp;
  const auto why = pp == 1 ? std::string("at least 2 stages, and grid.pp = 1")
                           : fmt::format(
                                 "at least 2 layers on each of grid.pp = {} stages, and "
                                 "model.layers = {}",
                                 pp, deck.model.layers);
  return {"pipeline.schedule",
          fmt::format("\"interleaved\" needs {} (legal: \"gpipe\", \"1f1b\")", why)};
}

}  // namespace

std::string multiples_text(std::int64_t n, std::int64_t unit) {
  const auto below = n / unit * unit;
  return below == 0 ? std::to_string(unit) : fmt::format("{} or {}", below, below + unit);
}

std::string divisors_text(std::int64_t n) {
  constexpr std::size_t kShown = 24;
  std::vector<std::string> out;
  for (std::int64_t d = 1; d <= n; ++d) {
    if (n % d != 0) continue;
    if (out.size() == kShown) {
      out.push_back("...");
      break;
    }
    out.push_back(std::to_string(d));
  }
  return io::comma_list(out);
}

std::string range_text(std::int64_t least, std::int64_t most) {
  return most <= least ? std::to_string(least) : fmt::format("{} to {}", least, most);
}

std::vector<CutProblem> cut_problems(const Deck& deck) {
  std::vector<CutProblem> problems;
  const auto& m = deck.model;
  const auto tp = deck.grid.tp;
  const auto refuse = [&](std::string what) {
    problems.push_back({"grid.tp", fmt::format("{}; legal for this model: {}", what, legal_tp(m))});
  };
  if (m.heads % tp != 0) {
    refuse(fmt::format("{} does not divide model.heads = {}", tp, m.heads));
  } else if (!cuts_kv(m.kv_heads, tp)) {
    refuse(fmt::format("{} neither divides model.kv_heads = {} nor is a multiple of it", tp,
                       m.kv_heads));
  } else if (has_dense_blocks(m) && m.ffn % tp != 0) {
    refuse(fmt::format("{} does not divide model.ffn = {}", tp, m.ffn));
  } else if (has_expert_blocks(m) && m.moe.ffn % tp != 0) {
    refuse(fmt::format("{} does not divide moe.ffn = {}", tp, m.moe.ffn));
  } else if (m.vocab < tp) {
    refuse(fmt::format("{} is more than model.vocab = {}", tp, m.vocab));
  }
  add_context_problems(deck, problems);
  add_expert_axis_problem(deck, problems);
  const auto pp = deck.grid.pp, chunks = deck.pipeline.chunks;
  const std::int64_t least = is_interleaved(deck) ? 2 : 1;
  if (m.layers < pp) {
    problems.push_back({"grid.pp", fmt::format("{} stages need a layer each, and model.layers = {} "
                                               "(legal: {})",
                                               pp, m.layers, range_text(1, m.layers / least))});
  } else if (is_interleaved(deck) && (pp == 1 || m.layers < 2 * pp)) {
    problems.push_back(interleaved_problem(deck));
  } else if (is_interleaved(deck) && m.layers < pp * chunks) {
    problems.push_back(
        {"pipeline.chunks",
         fmt::format("{} chunks on each of grid.pp = {} stages need a layer each, and model.layers "
                     "= {} (legal: {})",
                     chunks, pp, m.layers, range_text(2, m.layers / pp))});
  }
  if (deck.recompute.layers > m.layers) {
    problems.push_back(
        {"recompute.layers", fmt::format("{} is more than model.layers = {} (legal: 0 to {})",
                                         deck.recompute.layers, m.layers, m.layers)});
  }
  return problems;
}

namespace {

// Forwards of one step and all stages. A rank lays out the schedule of all of them to find its own
// part: this many take some ten megabytes and some tens of milliseconds.
constexpr std::int64_t kForwardsMax = 1 << 18;

// Chunks that do not fit the schedule.
void add_chunk_problems(const Deck& deck, std::vector<CutProblem>& problems) {
  const auto pp = deck.grid.pp, chunks = deck.pipeline.chunks, layers = deck.model.layers;
  if (!is_interleaved(deck)) {
    if (chunks == 1) return;
    problems.push_back(
        {"pipeline.chunks",
         fmt::format("pipeline.schedule = \"{}\" has one chunk a stage (legal: 1, or more with "
                     "\"interleaved\" on grid.pp >= 2)",
                     model::schedule_name(deck.pipeline.schedule))});
  } else if (chunks == 1) {
    problems.push_back({"pipeline.chunks", fmt::format("\"interleaved\" needs at least 2 chunks a "
                                                       "stage (legal: {})",
                                                       range_text(2, layers / pp))});
  }
}

}  // namespace

std::vector<CutProblem> schedule_problems(const Deck& deck, std::int64_t dp) {
  std::vector<CutProblem> problems;
  add_chunk_problems(deck, problems);

  const auto pp = deck.grid.pp, parts = pp * deck.pipeline.chunks;
  const auto at_once = dp * deck.grid.ep * deck.train.micro_batch;
  const auto batch = deck.train.global_batch;
  const auto micro_batches = batch / at_once;
  if (is_interleaved(deck) && micro_batches % pp != 0) {
    problems.push_back(
        {"train.global_batch",
         fmt::format("{} sequences are {} micro-batches of {} on each of dp*ep = {}*{} ranks; "
                     "\"interleaved\" needs a multiple of grid.pp = {} of them; nearest: {}",
                     batch, micro_batches, deck.train.micro_batch, dp, deck.grid.ep, pp,
                     multiples_text(batch, at_once * pp))});
  }
  // Validation passes are laid out too, of up to two rounds of the pipeline.
  if (parts * 2 * pp > kForwardsMax) {
    problems.push_back(
        {"grid.pp", fmt::format("a schedule of {} stages x {} chunks is too large: 2*pp*pp*chunks "
                                "is at most {}",
                                pp, deck.pipeline.chunks, kForwardsMax)});
  } else if (parts * micro_batches > kForwardsMax) {
    problems.push_back(
        {"train.global_batch",
         fmt::format(
             "{} sequences are {} micro-batches of {} on each of pp*chunks = {}*{} parts of "
             "the model, a schedule that is too large (legal: at most {}, or a larger "
             "train.micro_batch)",
             batch, micro_batches, deck.train.micro_batch, pp, deck.pipeline.chunks,
             kForwardsMax / parts * at_once)});
  }
  return problems;
}

}  // namespace pg::app
