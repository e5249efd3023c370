#include "model/pipeline/simulate.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "comm/error.h"

namespace pg::model {

double PipelineTiming::idle_share() const {
  const double work = std::accumulate(busy.begin(), busy.end(), 0.0);
  return 1.0 - work / (static_cast<double>(busy.size()) * makespan);
}

PipelineTiming simulate(const ScheduleShape& shape, const std::vector<std::vector<Action>>& lists,
                        const PipelineCosts& costs) {
  const auto stages = static_cast<std::size_t>(shape.stages);
  const auto virtual_stages = stages * static_cast<std::size_t>(shape.chunks);
  PG_ASSERT(lists.size() == stages && costs.forward.size() == virtual_stages &&
                (costs.backward.size() == virtual_stages || costs.backward.empty()),
            "{} lists, {} and {} costs for {} stages of {} chunks", lists.size(),
            costs.forward.size(), costs.backward.size(), shape.stages, shape.chunks);

  PipelineTiming timing;
  timing.busy.resize(stages);
  std::vector<double> clock(stages);
  std::vector<std::size_t> next(stages);
  std::map<Message, double> arrivals;

  // False: the stage waits for a message that is not yet sent.
  const auto step = [&](std::size_t s) {
    const auto& action = lists[s][next[s]];
    if (const auto message = message_of(action, static_cast<int>(s), shape.stages)) {
      if (is_send(action.kind)) {
        arrivals[*message] = clock[s] + costs.transfer;
        return true;
      }
      const auto arrival = arrivals.find(*message);
      if (arrival == arrivals.end()) return false;
      clock[s] = std::max(clock[s], arrival->second);
      return true;
    }
    const auto v = static_cast<std::size_t>(action.chunk) * stages + s;
    const auto& cost = action.kind == ActionKind::kForward ? costs.forward : costs.backward;
    PG_ASSERT(v < cost.size(), "no cost of the {} on virtual stage {}", text(action), v);
    clock[s] += cost[v];
    timing.busy[s] += cost[v];
    return true;
  };

  bool moved = true;
  while (moved) {
    moved = false;
    for (std::size_t s = 0; s < stages; ++s) {
      while (next[s] < lists[s].size() && step(s)) {
        ++next[s];
        moved = true;
      }
    }
  }
  for (std::size_t s = 0; s < stages; ++s) {
    PG_ASSERT(next[s] == lists[s].size(), "stage {} waits for ever at the {}", s,
              text(lists[s][next[s]]));
  }
  timing.makespan = *std::max_element(clock.begin(), clock.end());
  return timing;
}

double ideal_idle_share(const ScheduleShape& shape) {
  const double bubble = shape.stages - 1;
  return bubble / (static_cast<double>(shape.chunks) * shape.micro_batches + bubble);
}

}  // namespace pg::model
