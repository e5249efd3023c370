#include "app/verify_cut.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/console.h"
#include "app/context_checks.h"
#include "app/expert_checks.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "comm/error.h"

namespace pg::app {

namespace {

// The rest of the available memory is for MPI's buffers, for what is no tensor, and for others.
constexpr double kUsableShare = 0.8;

struct Demand {
  std::int64_t needed = 0, usable = 0;
  bool by_one_rank = false;  // the reference needs the most, not the grid's ranks on the host
  bool fits() const { return needed <= usable; }
};

// Of the host that has the least to spare. First rank 0 alone trains the reference and keeps its
// gradients; then the grid trains, and each gradient tensor is put together on every rank, in a
// buffer that MPI may copy once. Fresh routers may ask for one rank's experts alone.
Demand demand(const Deck& deck, const comm::GridShape& grid, std::span<const VerifyHost> hosts) {
  const auto alone = plan_memory(one_rank_deck(deck), {}, {});
  const auto stages = plan_stages(deck, grid);
  const auto layout = layout_of(one_rank_deck(deck), {});
  std::int64_t largest = 0;
  for (const auto& spec : layout.table().specs()) largest = std::max(largest, spec.elements());
  constexpr std::int64_t kElement = sizeof(double);
  const auto kept = alone.parameters * kElement;

  Demand tightest;
  std::int64_t least_spare = 0;
  for (const auto& host : hosts) {
    std::int64_t ranks_need = 0;
    for (std::size_t stage = 0; stage < stages.size(); ++stage) {
      ranks_need +=
          host.ranks_of_stage[stage] * (stages[stage].total_most() + 2 * kElement * largest);
    }
    Demand here;
    here.needed = host.has_rank_0 ? kept + std::max(alone.total_most(), ranks_need) : ranks_need;
    here.by_one_rank = host.has_rank_0 && alone.total_most() > ranks_need;
    here.usable = static_cast<std::int64_t>(kUsableShare * static_cast<double>(host.available));
    const auto spare = here.usable - here.needed;
    if (&host == &hosts.front() || spare < least_spare) {
      tightest = here;
      least_spare = spare;
    }
  }
  return tightest;
}

Deck with_layers(Deck deck, std::int64_t layers) {
  deck.model.layers = layers;
  deck.recompute.layers = std::min(deck.recompute.layers, layers);
  return deck;
}

// A smaller value of one key, and the deck that has it.
struct Shrunk {
  std::string key;
  std::int64_t from = 0, to = 0;
  std::string with;  // other keys that have to go along
  Deck deck;
};

// In the order in which they cost a user the least; values fall within each key. All are legal.
std::vector<Shrunk> smaller_decks(const Deck& deck) {
  std::vector<Shrunk> all;
  const auto micro_batch = deck.train.micro_batch;
  for (auto m = micro_batch - 1; m >= 1; --m) {
    if (micro_batch % m != 0) continue;
    all.push_back({"train.micro_batch", micro_batch, m, "", deck});
    all.back().deck.train.micro_batch = m;
    all.back().deck.train.global_batch = deck.train.global_batch / micro_batch * m;
  }
  const auto least = all.empty() ? deck : all.back().deck;
  const std::string with = micro_batch > 1 ? " with train.micro_batch = 1" : "";
  const auto unit = sequence_unit(deck);
  for (auto seq = deck.train.seq / 2 / unit * unit; seq >= unit; seq = seq / 2 / unit * unit) {
    all.push_back({"train.seq", deck.train.seq, seq, with, least});
    all.back().deck.train.seq = seq;
  }
  // Heads stay whole, and pairs of elements for rotary positions.
  const auto width = 2 * deck.model.heads;
  for (auto hidden = deck.model.hidden / 2 / width * width; hidden >= width;
       hidden = hidden / 2 / width * width) {
    all.push_back({"model.hidden", deck.model.hidden, hidden, with, least});
    all.back().deck.model.hidden = hidden;
  }
  return all;
}

[[noreturn]] void refuse(const Deck& deck, const Demand& now, const comm::GridShape& grid,
                         std::span<const VerifyHost> hosts) {
  const auto size = [](std::int64_t bytes) { return bytes_text(static_cast<double>(bytes)); };
  const auto why = fmt::format("needs {} on one host even with {} layer{}, where {} may be used",
                               size(now.needed), deck.model.layers,
                               deck.model.layers == 1 ? "" : "s", size(now.usable));
  for (const auto& smaller : smaller_decks(deck)) {
    if (!demand(smaller.deck, grid, hosts).fits()) continue;
    throw fail(ExitCode::kDeck, "{}: {}: verify {} (legal: at most {}{})", smaller.key,
               smaller.from, why, smaller.to, smaller.with);
  }
  throw fail(ExitCode::kDeck, "model.hidden: {}: verify {} (legal: a smaller model)",
             deck.model.hidden, why);
}

// Enough micro-batches for a pipeline that fills, runs steadily and drains, and for gradients that
// add up; a multiple of pp, as interleaved schedules need.
void cut_batch(VerifyDeck& v, const comm::GridShape& grid) {
  auto& train = v.deck.train;
  const auto ranks = grid.size(comm::kBatch);
  const auto at_once = ranks * train.micro_batch;
  const std::int64_t enough = 2 * grid.size(comm::Axis::kPP);
  if (train.global_batch / at_once <= enough) return;
  v.cuts.push_back(
      fmt::format("global_batch cut from {} to {}: {} micro-batches each show all sums",
                  train.global_batch, enough * at_once, enough));
  train.global_batch = enough * at_once;
}

}  // namespace

Deck one_rank_deck(Deck deck) {
  deck.grid = {};
  deck.pipeline = {};
  deck.context = {};
  deck.recompute = {};
  deck.run.device = "cpu";
  return deck;
}

VerifyDeck cut_for_verify(const Deck& deck, const comm::GridShape& grid,
                          std::span<const VerifyHost> hosts) {
  VerifyDeck v{deck, {}, 0, 0};
  v.deck.run.precision = DType::kF64;
  v.deck.data.valid.clear();
  v.deck.train.max_skips = 1;  // what cannot be compared is a failure
  v.deck.train.spike_sigma = 0;
  cut_batch(v, grid);

  // The most layers that fit: memory grows with them.
  auto now = demand(v.deck, grid, hosts);
  const auto all = deck.model.layers;
  if (!now.fits()) {
    // A layer for each part of the pipeline, and with experts a block that has some.
    std::int64_t fit = grid.size(comm::Axis::kPP) * deck.pipeline.chunks, too_many = all;
    if (has_expert_blocks(deck.model)) fit = std::max(fit, deck.model.moe.every);
    const bool by_one_rank = now.by_one_rank;
    const auto fewest = with_layers(v.deck, fit);
    now = demand(fewest, grid, hosts);
    if (!now.fits()) refuse(fewest, now, grid, hosts);
    while (too_many - fit > 1) {
      const auto middle = fit + (too_many - fit) / 2;
      const auto tried = demand(with_layers(v.deck, middle), grid, hosts);
      (tried.fits() ? fit : too_many) = middle;
      if (tried.fits()) now = tried;
    }
    v.deck = with_layers(v.deck, fit);
    v.cuts.push_back(fmt::format("layers cut from {} to {}, so that {} the model", all, fit,
                                 by_one_rank ? "one rank holds" : "in fp64 each host holds"));
    if (v.deck.recompute.layers != deck.recompute.layers) {
      v.cuts.push_back(fmt::format("recompute.layers cut from {} to {}: there are no more",
                                   deck.recompute.layers, fit));
    }
  }
  v.needed = now.needed;
  v.usable = now.usable;
  return v;
}

}  // namespace pg::app
