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

// What keeps the model from being cut over grid.tp and grid.pp ranks, as (key, what is wrong with
// the legal values); empty when nothing does.
struct CutProblem {
  std::string key, what;
};
std::vector<CutProblem> cut_problems(const Deck& deck);

}  // namespace pg::app
