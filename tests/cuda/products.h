// How far two ways of adding a product's terms may be apart.
#pragma once

#include <algorithm>
#include <functional>

#include "tests/cuda/mirror.h"

namespace pg::model::testing {

// A matrix view's element, from the host's side.
inline double element(const TensorView& x, std::int64_t i, std::int64_t j) {
  const auto at = i * x.stride(0) + j;
  switch (x.dtype()) {
    case DType::kF64:
      return x.data<double>()[at];
    case DType::kF32:
      return static_cast<double>(x.data<float>()[at]);
    default:
      return static_cast<double>(static_cast<float>(x.data<bf16>()[at]));
  }
}

// a'[M,K] b'[K,N] of the host's operands: the exact sum, and that of the terms' magnitudes.
struct Terms {
  TensorView a, b;
  bool transpose_a = false, transpose_b = false;

  std::int64_t k() const { return transpose_a ? a.dim(0) : a.dim(1); }
  void at(std::int64_t i, std::int64_t j, double& sum, double& magnitude) const {
    sum = magnitude = 0.0;
    for (std::int64_t l = 0; l < k(); ++l) {
      const double term = element(a, transpose_a ? l : i, transpose_a ? i : l) *
                          element(b, transpose_b ? j : l, transpose_b ? l : j);
      sum += term;
      magnitude += std::abs(term);
    }
  }
  // Each of two backends adds K terms and up to two more (a bias, what was there) in some order: an
  // error of at most (K + 2) roundings of the accumulator's type, relative to the magnitudes
  // (Higham 2002, 3.1). `more` is the magnitude of the two.
  double error(std::int64_t i, std::int64_t j, double more) const {
    double sum = 0.0, magnitude = 0.0;
    at(i, j, sum, magnitude);
    return 2.0 * static_cast<double>(k() + 2) * epsilon_of(accumulator_of(a.dtype())) *
           (magnitude + more);
  }
};

// The element of y furthest from the CPU's, in units of what it may be: at most 1 passes.
// `allowed(i, j)` is for the sums; each backend then rounds to y's type.
inline double worst(const Mirror& y,
                    const std::function<double(std::int64_t, std::int64_t)>& allowed) {
  const auto gpu = y.from_device();
  const auto columns = y.host().dim(1);
  double most = 0.0;
  for (std::int64_t at = 0; at < y.elements(); ++at) {
    const double a = y.at_host(at), b = gpu[static_cast<std::size_t>(at)];
    if (std::isnan(a) && std::isnan(b)) continue;  // outside a strided view
    if (std::isnan(a) != std::isnan(b)) return INFINITY;
    const double bound = allowed(at / columns, at % columns) +
                         2.0 * epsilon_of(y.dtype()) * std::max(std::abs(a), std::abs(b));
    if (a != b) most = std::max(most, std::abs(a - b) / bound);
  }
  return most;
}

}  // namespace pg::model::testing
