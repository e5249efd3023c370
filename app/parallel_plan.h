// From a deck and a place in the grid to what the model code needs to know about it.
#pragma once

#include <string>
#include <vector>

#include "app/deck.h"
#include "comm/process_grid.h"
#include "model/pipeline/pipeline.h"

namespace pg::app {

model::Sharding sharding_of(const Deck& deck, const comm::GridShape& grid,
                            const comm::Coord& coord);
// Every parameter's part at this place in the grid: which layers, which rows, which piece.
model::ParamLayout layout_of(const Deck& deck, const model::Sharding& sharding);
model::PipelineOptions pipeline_options(const Deck& deck, const comm::GridShape& grid);
// The grid's groups as the model code names them. Collective; `grid` must outlive them.
model::Groups groups_of(const Deck& deck, comm::ProcessGrid& grid);

// The multiples of `unit` on both sides of `n`: "12 or 24".
std::string multiples_text(std::int64_t n, std::int64_t unit);
// "1, 2, 4, 8", the first 24 of many.
std::string divisors_text(std::int64_t n);
// "2 to 8"; a range of one value, or of none, is its least.
std::string range_text(std::int64_t least, std::int64_t most);

// One thing that is wrong: the key to change, and why with the legal values.
struct CutProblem {
  std::string key, what;
};
// What keeps the model from being cut over grid.tp, grid.pp, grid.ep, grid.cp and, interleaved,
// pipeline.chunks; empty when nothing does. For decks whose keys are each within their range.
std::vector<CutProblem> cut_problems(const Deck& deck);
// What keeps the micro-batches of a deck without cut_problems from being scheduled on `dp`
// data-parallel ranks.
std::vector<CutProblem> schedule_problems(const Deck& deck, std::int64_t dp);

}  // namespace pg::app
