// Ranks that keep the others waiting. A rank's own work of a step is the wall time of the step less
// what it waited for others (comm/activity.h). Ranks of one pipeline stage do the same work; one
// that takes much longer than their median is named. What counts of a rank is the median over its
// steps: a rank that was held up once is no straggler.
//
// Wall time, not the processor's: a rank that another program keeps from its core, that waits for
// its disk or whose node was throttled is what is looked for, and the processor's clock sees none
// of it but the last. On a GPU own work is the host's: what it waits for the GPU counts as waiting,
// so that a GPU that is slow itself is not told from those that wait for it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/process_grid.h"

namespace pg::app {

struct Straggler {
  int rank = 0;  // of the grid
  std::string host;
  double own_s = 0, median_s = 0;  // a step, of the rank and of its stage
};

// By rank: seconds of own work a step, and the pipeline stage. Named is what takes more than
// `factor` times the median of its stage and kLeastExcess more than it, in stages of 3 ranks or
// more: of two, neither is the odd one. `factor` 0: none. Hosts stay empty.
std::vector<Straggler> find_stragglers(std::span<const double> own_s, std::span<const int> stages,
                                       double factor);

// s. About what the system takes a core away for, a few of its slices: less is no defect of a node,
// and in steps of a few milliseconds chance alone makes a factor of two.
inline constexpr double kLeastExcess = 0.02;

class Stragglers {
 public:
  // Collective: learns the hosts. `grid` must outlive it.
  Stragglers(double factor, comm::ProcessGrid& grid);

  // Own seconds of one step. The first step does not count: it touches memory for the first time.
  void add(double own_s);
  // Collective. Those of the steps since the last ones that were judged, the same on every rank;
  // fewer than kLeastSteps steps are judged together with those that come.
  std::vector<Straggler> found();
  static constexpr std::size_t kLeastSteps = 3;

 private:
  double factor_;
  comm::ProcessGrid& grid_;
  std::vector<std::string> hosts_;
  std::vector<int> stages_;
  bool first_ = true;
  std::vector<double> own_s_;  // by step
};

// "rank 2 (n1) is slow: 0.130 s of own work a step, 3.2 times the median of its stage's ranks".
std::string straggler_text(const Straggler& straggler);
// A record of metrics.jsonl, which has no loss.
std::string stragglers_json(std::int64_t step, const std::vector<Straggler>& stragglers);

}  // namespace pg::app
