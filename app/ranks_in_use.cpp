#include "app/ranks_in_use.h"

#include <algorithm>

#include "app/parallel_plan.h"

namespace pg::app {

namespace {

bool batch_fits(const Deck& deck, std::int64_t dp) {
  const auto& train = deck.train;
  if (train.global_batch % (dp * deck.grid.ep * train.micro_batch) != 0) return false;
  const auto problems = schedule_problems(deck, dp);
  return std::none_of(problems.begin(), problems.end(),
                      [](const auto& problem) { return problem.key == "train.global_batch"; });
}

}  // namespace

int ranks_in_use(const Deck& deck, int ranks) {
  const auto& grid = deck.grid;
  if (grid.dp > 0 || deck.checkpoint.resume == "none") return ranks;
  if (deck.train.global_batch <= 0 || deck.train.micro_batch <= 0) return ranks;
  const auto others = grid.tp * grid.pp * grid.ep * grid.cp;
  if (others > ranks) return ranks;
  for (auto dp = std::min<std::int64_t>(ranks / others, deck.train.global_batch); dp > 1; --dp) {
    if (batch_fits(deck, dp)) return static_cast<int>(dp * others);
  }
  return static_cast<int>(others);
}

}  // namespace pg::app
