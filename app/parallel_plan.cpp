#include "app/parallel_plan.h"

#include <fmt/format.h>

#include <algorithm>

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
  s.replicas = grid.size(comm::kDenseReplicas);
  s.replica = grid.index_in(coord, comm::kDenseReplicas);
  s.zero = static_cast<int>(deck.grid.zero);
  return s;
}

model::ParamLayout layout_of(const Deck& deck, const model::Sharding& sharding) {
  const auto all = model::split_layers(deck.model.layers, sharding.pp * sharding.chunks,
                                       model::layer_costs(deck.model, deck.train.seq));
  std::vector<model::StagePart> mine;
  for (int chunk = 0; chunk < sharding.chunks; ++chunk) {
    mine.push_back(all[static_cast<std::size_t>(chunk * sharding.pp + sharding.stage)]);
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
          borrowed(grid.dense_replicas()), borrowed(grid.axis(comm::Axis::kPP)),
          borrowed(grid.pipeline_ends())};
}

namespace {

bool cuts_kv(std::int64_t kv_heads, std::int64_t tp) {
  return kv_heads % tp == 0 || tp % kv_heads == 0;
}

// Every tp that all of the model's sizes allow.
std::string legal_tp(const model::ModelConfig& m) {
  std::vector<std::string> legal;
  for (std::int64_t tp = 1; tp <= m.heads; ++tp) {
    if (m.heads % tp == 0 && cuts_kv(m.kv_heads, tp) && m.ffn % tp == 0 && m.vocab >= tp) {
      legal.push_back(std::to_string(tp));
    }
  }
  return io::comma_list(legal);
}

}  // namespace

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
  } else if (m.ffn % tp != 0) {
    refuse(fmt::format("{} does not divide model.ffn = {}", tp, m.ffn));
  } else if (m.vocab < tp) {
    refuse(fmt::format("{} is more than model.vocab = {}", tp, m.vocab));
  }
  if (deck.grid.sequence_parallel && deck.train.seq % tp != 0) {
    problems.push_back(
        {"grid.sequence_parallel",
         fmt::format("train.seq = {} is not a multiple of grid.tp = {}", deck.train.seq, tp)});
  }
  const auto stages = deck.grid.pp * deck.pipeline.chunks;
  if (m.layers < stages) {
    problems.push_back(
        {"grid.pp", fmt::format("pp * chunks = {} * {} = {} is more than model.layers = {} (legal: "
                                "at most {} of them)",
                                deck.grid.pp, deck.pipeline.chunks, stages, m.layers, m.layers)});
  }
  if (deck.recompute.layers > m.layers) {
    problems.push_back({"recompute.layers", fmt::format("{} is more than model.layers = {}",
                                                        deck.recompute.layers, m.layers)});
  }
  return problems;
}

}  // namespace pg::app
