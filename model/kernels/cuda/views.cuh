// Views as kernels take them: plain values of pointers and strides.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "model/tensor.h"

namespace pg::model::cuda {

inline void require_cuda(const TensorView& x) {
  PG_ASSERT(x.empty() || x.device() == Device::kCuda, "{} is not on the GPU", x.text());
}

// Row r, counted over all axes but the last, begins at data + offset(r).
struct RowOffsets {
  std::int64_t dims[TensorView::kMaxRank - 1] = {1, 1, 1};
  std::int64_t strides[TensorView::kMaxRank - 1] = {0, 0, 0};

  explicit RowOffsets(const TensorView& x) {
    // Innermost first; axes that are not there have one entry.
    for (int axis = x.rank() - 2, i = 0; axis >= 0; --axis, ++i) {
      dims[i] = x.dim(axis);
      strides[i] = x.stride(axis);
    }
  }
  __host__ __device__ std::int64_t operator()(std::int64_t row) const {
    const auto a = row % dims[0];
    row /= dims[0];
    return a * strides[0] + row % dims[1] * strides[1] + row / dims[1] * strides[2];
  }
};

// Rows of equal distance, or -1: of a view whose outer axes are not one run.
inline std::int64_t row_stride(const TensorView& x) {
  if (x.rank() < 2) return x.elements();
  for (int axis = 0; axis + 2 < x.rank(); ++axis) {
    if (x.dim(axis) > 1 && x.stride(axis) != x.stride(axis + 1) * x.dim(axis + 1)) return -1;
  }
  return x.stride(x.rank() - 2);
}

}  // namespace pg::model::cuda
