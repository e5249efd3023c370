// What the operations of expert routing share: their checks, the types that probabilities come in,
// and lanes that share a row of some experts.
#pragma once

#include <cstdint>
#include <utility>

#include "model/kernels/cuda/rows.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model::cuda {

// work.operator()<A>() for the accumulator type A of `type`, which must be one.
template <class Work>
decltype(auto) dispatch_accumulator(DType type, Work&& work) {
  PG_ASSERT(type == accumulator_of(type), "{} is not an accumulator type", dtype_name(type));
  if (type == DType::kF64) return std::forward<Work>(work).template operator()<double>();
  return std::forward<Work>(work).template operator()<float>();
}

inline void check_same(const TensorView& a, const TensorView& b) {
  require_cuda(a);
  require_cuda(b);
  PG_ASSERT(same_matrix(a, b), "{} and {}", a.text(), b.text());
}

// vector[n] lies flat.
inline void check_vector(const TensorView& vector, std::int64_t n) {
  require_cuda(vector);
  PG_ASSERT(vector.rank() == 1 && vector.dim(0) == n && vector.contiguous(), "{} for {} elements",
            vector.text(), n);
}

// Rows of experts are short: as many lanes of a warp take one as it has entries, a power of two and
// at most 32. All lanes of a warp go through the same shuffles, those behind the last row as well,
// with no entries.
struct RowLanes {
  std::int64_t rows, experts;
  int log_lanes = 0;

  RowLanes(std::int64_t n, std::int64_t width) : rows(n), experts(width) {
    while (log_lanes < 5 && (1 << log_lanes) < width) ++log_lanes;
  }
  dim3 grid(int threads) const { return dim3(blocks_of(ceil_div(rows << log_lanes, threads))); }
};

struct RowOfLane {
  std::int64_t row, end;  // end: of the entries, 0 behind the last row
  int lane, lanes;

  __device__ explicit RowOfLane(const RowLanes& all) {
    const std::int64_t thread = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
    lanes = 1 << all.log_lanes;
    lane = static_cast<int>(thread & (lanes - 1));
    row = thread >> all.log_lanes;
    const bool inside = row < all.rows;
    end = inside ? all.experts : 0;
    row = inside ? row : 0;
  }
  bool __device__ first() const { return lane == 0 && end > 0; }

  // Every lane of the row gets the same bits.
  template <class X>
  __device__ X sum(X x) const {
    for (int i = lanes / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, i);
    return x;
  }
  // No NaN among them.
  template <class X>
  __device__ X max(X x) const {
    for (int i = lanes / 2; i > 0; i /= 2) {
      const X other = __shfl_xor_sync(0xFFFFFFFFu, x, i);
      x = other > x ? other : x;
    }
    return x;
  }
};

}  // namespace pg::model::cuda
