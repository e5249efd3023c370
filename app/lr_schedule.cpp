#include "app/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pg::app {

double learning_rate(const ScheduleSection& schedule, double peak, std::int64_t steps,
                     std::int64_t step) {
  const auto ratio = [](std::int64_t part, std::int64_t whole) {
    return whole <= 0
               ? 1.0
               : std::clamp(static_cast<double>(part) / static_cast<double>(whole), 0.0, 1.0);
  };
  if (step <= schedule.warmup) return peak * ratio(step, schedule.warmup);

  const double span = peak - schedule.min_lr;
  const double done = ratio(step - schedule.warmup, steps - schedule.warmup);
  switch (schedule.kind) {
    case LrKind::kCosine:
      return schedule.min_lr + span * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
    case LrKind::kWsd:
      if (step <= steps - schedule.decay) return peak;
      return peak - span * ratio(step - (steps - schedule.decay), schedule.decay);
    case LrKind::kLinear:
      return peak - span * done;
    case LrKind::kConstant:
      return peak;
  }
  return peak;
}

}  // namespace pg::app
