#include "app/stop.h"

#include <fmt/format.h>

namespace pg::app {

std::string Stop::agreed(comm::Group& /*world*/, std::int64_t step, double /*save_seconds*/,
                         double /*step_seconds*/) {
  if (stop_after_ > 0 && step >= stop_after_)
    return fmt::format("run.stop_after = {}", stop_after_);
  return "";
}

}  // namespace pg::app
