// Attention over some keys and over others, to attention over both: each output is weighed by its
// share of the whole sum of exponentials (Liu et al. 2023). A warp for each query of each head.
#include <cmath>
#include <limits>

#include "model/kernels/attention_checks.h"
#include "model/kernels/cuda/attention_prepare.cuh"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;

template <class A>
struct Side {
  A* o;
  std::int64_t sequence, row, head;
  A* lse;
  std::int64_t lse_sequence, lse_head;
};

template <class A, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    merge(Side<A> ours, Side<A> theirs, std::int64_t rows, int queries, int heads, int size) {
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  constexpr int kPer = Pack<A>::kSize;
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; row < rows;
       row += std::int64_t{gridDim.x} * (kThreads / 32)) {
    const std::int64_t h = row % heads, query = row / heads % queries, b = row / heads / queries;
    A* to = ours.o + b * ours.sequence + query * ours.row + h * ours.head;
    const A* from = theirs.o + b * theirs.sequence + query * theirs.row + h * theirs.head;
    A& own = ours.lse[b * ours.lse_sequence + h * ours.lse_head + query];
    const A left = own, right = theirs.lse[b * theirs.lse_sequence + h * theirs.lse_head + query];
    // Every lane has read it before lane 0 replaces it.
    __syncwarp();
    // An empty side is not weighed by zero but left out: the other keeps its bits.
    if (right == kNone) continue;
    const bool only = left == kNone, more = left >= right;
    // Both shares from the exponential of a number that is never positive; NaN reaches both.
    const A smaller = std::exp(-std::abs(left - right)), share = A{1} / (A{1} + smaller);
    const A keep = more ? share : smaller * share, add = more ? smaller * share : share;
    if (lane == 0) own = only ? right : (more ? left : right) + std::log1p(smaller);
    for (int d = lane * kPer; d < size; d += 32 * kPer) {
      if (kAligned) {
        const auto x = load_pack(from + d);
        auto y = x;
        if (!only) {
          y = load_pack(to + d);
          for (int i = 0; i < kPer; ++i) y.at[i] = y.at[i] * keep + x.at[i] * add;
        }
        store_pack(to + d, y);
      } else {
        for (int i = d; i < d + kPer && i < size; ++i) {
          to[i] = only ? from[i] : to[i] * keep + from[i] * add;
        }
      }
    }
  }
}

template <class A>
Side<A> side(const TensorView& o, const TensorView& lse) {
  return {o.data<A>(),   o.stride(0),   o.stride(1),  o.stride(2),
          lse.data<A>(), lse.stride(0), lse.stride(1)};
}

}  // namespace

void CudaKernels::attention_merge(TensorView o, TensorView lse, TensorView other_o,
                                  TensorView other_lse) {
  check_attention_merge(o, lse, other_o, other_lse);
  for (const auto& x : {o, lse, other_o, other_lse}) require_cuda(x);
  const auto rows = o.dim(0) * o.dim(1) * o.dim(2);
  if (rows == 0) return;
  const dim3 grid(blocks_of(std::min<std::int64_t>(ceil_div(rows, kThreads / 32), 1 << 16)));
  const auto run = [&]<class A>(A /*of o*/) {
    const bool aligned = input<A>(o).packs && input<A>(other_o).packs;
    launch("attention_merge", aligned ? merge<A, true> : merge<A, false>, grid, dim3(kThreads), 0,
           stream_, side<A>(o, lse), side<A>(other_o, other_lse), rows, static_cast<int>(o.dim(1)),
           static_cast<int>(o.dim(2)), static_cast<int>(o.dim(3)));
  };
  o.dtype() == DType::kF64 ? run(double{}) : run(float{});
}

}  // namespace pg::model
