// Sums over host memory as values.
#pragma once

#include "model/kernels/kernels.h"

namespace pg::model {

inline double sum_of(Kernels& kernels, TensorView x) {
  double total = 0.0;
  kernels.sum(TensorView(&total, DType::kF64, {1}), x);
  return total;
}
inline double squares_of(Kernels& kernels, TensorView x) {
  double total = 0.0;
  kernels.sum_of_squares(TensorView(&total, DType::kF64, {1}), {&x, 1});
  return total;
}

}  // namespace pg::model
