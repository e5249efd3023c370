// Sums over the rows of a matrix in an order that its size alone decides: the last step of
// gradients by rows whose blocks leave one row of partial sums each.
#pragma once

#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"

namespace pg::model::cuda {

// to[k][c] += the sum over rows of from[k][r * stride + c], c < width, for both k or only the
// first.
template <class A>
struct ColumnSums {
  const A* from[2];
  A* to[2];  // the second may be null
  std::int64_t rows, width, stride;
};

inline constexpr int kColumnWarps = 32;

template <class A>
__global__ void __launch_bounds__(32 * kColumnWarps) add_column_sums(ColumnSums<A> sums) {
  __shared__ A partial[kColumnWarps][kWarp];
  const std::int64_t c = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const A* const from = blockIdx.y == 0 ? sums.from[0] : sums.from[1];
  A* const to = blockIdx.y == 0 ? sums.to[0] : sums.to[1];
  A sum{};
  if (c < sums.width) {
#pragma unroll 4
    for (std::int64_t r = threadIdx.y; r < sums.rows; r += kColumnWarps) {
      sum += from[r * sums.stride + c];
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= sums.width) return;
  for (int warp = 1; warp < kColumnWarps; ++warp) sum += partial[warp][threadIdx.x];
  to[c] += sum;
}

template <class A>
void run_column_sums(const char* name, cudaStream_t stream, const ColumnSums<A>& sums) {
  launch(name, add_column_sums<A>,
         dim3(blocks_of(ceil_div(sums.width, kWarp)), sums.to[1] == nullptr ? 1 : 2),
         dim3(kWarp, kColumnWarps), 0, stream, sums);
}

}  // namespace pg::model::cuda
