// What the keys of [moe] and grid.ep have to be like, with each other and with the model.
#pragma once

#include <vector>

#include "app/deck.h"
#include "app/parallel_plan.h"
#include "io/deck.h"

namespace pg::app {

// Whether some block's feed-forward layer is dense, and whether some block's is of experts.
bool has_dense_blocks(const model::ModelConfig& model);
bool has_expert_blocks(const model::ModelConfig& model);
std::int64_t expert_blocks(const model::ModelConfig& model);

const char* router_name(model::RouterKind router);  // as decks write it

// grid.ep on this model.
void add_expert_axis_problem(const Deck& deck, std::vector<CutProblem>& problems);

// The keys of [moe]: what does not fit together, and what would be ignored. By value, not by what
// was written, so that a resolved deck passes.
void check_experts(const Deck& deck, io::DeckReader& reader);

// At least as many as a token's routing and experts keep, on the rank that all tokens go to.
double expert_elements_a_token(const Deck& deck);

}  // namespace pg::app
