// All shapes of a world, for tests that go through many.
#pragma once

#include <vector>

#include "comm/grid_shape.h"

namespace pg::comm {

inline std::vector<GridShape> shapes_of(int world) {
  std::vector<GridShape> shapes;
  for (int dp = 1; dp <= world; ++dp) {
    if (world % dp != 0) continue;
    for (int tp = 1; tp <= world / dp; ++tp) {
      if (world / dp % tp != 0) continue;
      for (int pp = 1; pp <= world / dp / tp; ++pp) {
        if (world / dp / tp % pp != 0) continue;
        const int rest = world / dp / tp / pp;
        for (int ep = 1; ep <= rest; ++ep) {
          if (rest % ep == 0) shapes.emplace_back(dp, tp, pp, ep, rest / ep);
        }
      }
    }
  }
  return shapes;
}

// Every set of axes.
inline std::vector<AxisSet> axis_sets() {
  std::vector<AxisSet> sets;
  for (unsigned bits = 0; bits < (1u << kAxes); ++bits) sets.emplace_back().bits = bits;
  return sets;
}

}  // namespace pg::comm
