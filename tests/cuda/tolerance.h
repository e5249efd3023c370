// How far two backends may be apart that compute the same formula: bounds from the roundings they
// make, not from what they happen to reach.
#pragma once

#include <vector>

#include "tests/cuda/mirror.h"

namespace pg::model::testing {

// Of an element that each backend computes with `roundings` roundings (or units in the last place
// of its functions) in the accumulator type and then stores, relative to the operands' size: both
// may err to opposite sides, by half a unit of the accumulator type a rounding and one rounding of
// the storage type.
inline double tolerance(DType type, double roundings) {
  const double stored = type == DType::kBF16 ? 2.0 * epsilon_of(type) : 0.0;
  return 2.0 * roundings * epsilon_of(accumulator_of(type)) + stored;
}

// What the GPU holds now, twice: for comparisons bit by bit in which any NaN equals any NaN.
inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(a[i])) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) {
      return false;
    }
  }
  return true;
}

}  // namespace pg::model::testing
