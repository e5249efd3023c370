// Learning rate as a pure function of the step. The formulas are those that `pentagrid help
// schedule` prints.
#pragma once

#include <cstdint>

#include "app/deck.h"

namespace pg::app {

// For the update that completes step `step` (from 1) of `steps`. `peak` is optimizer.lr.
double learning_rate(const ScheduleSection& schedule, double peak, std::int64_t steps,
                     std::int64_t step);

}  // namespace pg::app
