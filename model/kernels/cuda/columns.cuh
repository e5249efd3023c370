// Sums over the rows of a matrix in an order that its size alone decides: the last step of
// gradients by rows whose blocks leave one row of partial sums each.
#pragma once

#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"

namespace pg::model::cuda {

// to[c] += the sum over rows of from[r * stride + c], c < width; columns from `split` on go to
// behind[c - split].
template <class A>
struct ColumnSums {
  const A* from;
  std::int64_t rows, width, stride;
  A* to;
  std::int64_t split;
  A* behind;
};

inline constexpr int kColumnWarps = 32;

template <class A>
__global__ void __launch_bounds__(32 * kColumnWarps) add_column_sums(ColumnSums<A> sums) {
  __shared__ A partial[kColumnWarps][kWarp];
  const std::int64_t c = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  A sum{};
  if (c < sums.width) {
#pragma unroll 4
    for (std::int64_t r = threadIdx.y; r < sums.rows; r += kColumnWarps) {
      sum += sums.from[r * sums.stride + c];
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= sums.width) return;
  for (int warp = 1; warp < kColumnWarps; ++warp) sum += partial[warp][threadIdx.x];
  A& total = c < sums.split ? sums.to[c] : sums.behind[c - sums.split];
  total += sum;
}

template <class A>
void run_column_sums(const char* name, cudaStream_t stream, const ColumnSums<A>& sums) {
  launch(name, add_column_sums<A>, dim3(blocks_of(ceil_div(sums.width, kWarp))),
         dim3(kWarp, kColumnWarps), 0, stream, sums);
}

}  // namespace pg::model::cuda
