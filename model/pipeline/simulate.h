// Plays a pipeline schedule's lists against the clock, as the executor runs them: strictly in
// order, a send is posted and not waited for, a receive waits until its message is there. What a
// schedule or a split of the layers costs, before anything runs.
#pragma once

#include <vector>

#include "model/pipeline/schedule.h"

namespace pg::model {

struct PipelineCosts {
  std::vector<double> forward;   // [virtual stage] seconds (or any unit) of one micro-batch
  std::vector<double> backward;  // [virtual stage]; may be empty for forward-only lists
  double transfer = 0.0;         // from the send to the arrival; links are never crowded
};

struct PipelineTiming {
  double makespan = 0.0;     // from the start of the first action to the end of the last one
  std::vector<double> busy;  // [stage] time in forwards and backwards

  // The share of all stages' time in which they compute nothing: 1 - sum(busy) / (p * makespan).
  double idle_share() const;
};

// `lists`: one per stage, of any pass. PG_ASSERTs that the costs fit and that the lists end, which
// verify_schedule explains.
PipelineTiming simulate(const ScheduleShape& shape, const std::vector<std::vector<Action>>& lists,
                        const PipelineCosts& costs);

// The idle share with equal virtual stages and free messages: (p-1) / (v m + p-1) for p stages of v
// chunks (gpipe and 1f1b: 1) and m micro-batches. It is Narayanan et al. 2021's bubble, (p-1) / (v
// m) of the ideal time, as a share of the makespan, whatever a backward costs over a forward.
double ideal_idle_share(const ScheduleShape& shape);

}  // namespace pg::model
