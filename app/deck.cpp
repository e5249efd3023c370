#include "app/deck.h"

#include "comm/error.h"

namespace pg::app {

std::string grid_problem(const GridSection& grid, int ranks) {
  const auto others = grid.tp * grid.pp * grid.ep * grid.cp;
  const auto product = (grid.dp > 0 ? grid.dp : 1) * others;
  const bool fits = grid.dp > 0 ? product == ranks : ranks % others == 0;
  if (fits) return "";
  const auto axes = fmt::format("dp {} x tp {} x pp {} x ep {} x cp {}",
                                grid.dp > 0 ? fmt::format("{}", grid.dp) : "(what is left)",
                                grid.tp, grid.pp, grid.ep, grid.cp);
  if (ranks % others != 0) {
    return fmt::format(
        "{} does not fit {} ranks: tp*pp*ep*cp = {} does not divide {} (legal: a divisor of {}, or "
        "{} ranks)",
        axes, ranks, others, ranks, ranks, ranks < others ? others : ranks / others * others);
  }
  return fmt::format("{} is {} ranks, but there are {}; legal: dp = {}, or 0 for what is left",
                     axes, product, ranks, ranks / others);
}

comm::GridShape grid_of(const Deck& deck, int ranks) {
  const auto& grid = deck.grid;
  if (const auto problem = grid_problem(grid, ranks); !problem.empty()) {
    throw fail(ExitCode::kDeck, "grid.dp: {}", problem);
  }
  const auto others = grid.tp * grid.pp * grid.ep * grid.cp;
  return comm::GridShape(static_cast<int>(ranks / others), static_cast<int>(grid.tp),
                         static_cast<int>(grid.pp), static_cast<int>(grid.ep),
                         static_cast<int>(grid.cp));
}

}  // namespace pg::app
