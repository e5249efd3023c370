// What stands between the router's logits and the gates: softmax, gates, the gradients of both and
// of the load-balance loss, and the sums that the losses and reports are made of. Rows are short (a
// few experts to some hundreds) and independent, but for the statistics.
#include <cmath>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/moe_views.cuh"
#include "model/kernels/cuda/pieces.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;

__device__ __forceinline__ float exponential(float x) {
  return expf(x);
}
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}

// As cross-entropy's rows: a NaN is never the maximum but enters the sum.
template <class A>
__global__ void __launch_bounds__(kThreads)
    softmax_of_rows(Rows<A> probs, A* lse, Rows<A> logits, RowLanes all) {
  const RowOfLane my(all);
  const A* const x = logits[my.row];
  A top = -static_cast<A>(INFINITY);
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) top = x[e] > top ? x[e] : top;
  top = my.max(top);
  const A shift = top == -static_cast<A>(INFINITY) ? A{0} : top;
  double sum = 0.0;
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    sum += static_cast<double>(exponential(x[e] - shift));
  }
  sum = my.sum(sum);
  const A scale = static_cast<A>(1.0 / sum);
  A* const p = probs[my.row];
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    p[e] = exponential(x[e] - shift) * scale;
  }
  if (my.first()) lse[my.row] = static_cast<A>(static_cast<double>(shift) + log(sum));
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient(Rows<A> dlogits, Rows<A> dprobs, Rows<A> probs, const A* lse, double z_scale,
                     RowLanes all) {
  const RowOfLane my(all);
  const A *const dp = dprobs[my.row], *const p = probs[my.row];
  A mean = 0;
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) mean += p[e] * dp[e];
  mean = my.sum(mean);
  const A z = my.end == 0 ? A{0} : static_cast<A>(2.0 * z_scale * static_cast<double>(lse[my.row]));
  A* const dx = dlogits[my.row];
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) dx[e] = p[e] * ((dp[e] - mean) + z);
}

// 1 / the sum of p over the chosen experts. All the chosen probabilities may underflow to 0 (when a
// bias chose experts that the router itself rules out): a token's gates are then 0, not NaN, and so
// is their gradient.
template <class A>
__device__ A inverse_of_chosen(const RowOfLane& my, const A* p, const std::uint8_t* is_chosen) {
  A sum = 0;
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) sum += is_chosen[e] != 0 ? p[e] : A{0};
  sum = my.sum(sum);
  return sum == A{0} ? A{0} : A{1} / sum;
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    gates_of_rows(Rows<A> gates, Rows<A> probs, Rows<std::uint8_t> chosen, Rows<std::uint8_t> kept,
                  bool renormalize, RowLanes all) {
  const RowOfLane my(all);
  const A* const p = probs[my.row];
  const std::uint8_t* const is_kept = kept[my.row];
  const A scale = renormalize ? inverse_of_chosen(my, p, chosen[my.row]) : A{1};
  A* const gate = gates[my.row];
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    gate[e] = is_kept[e] != 0 ? p[e] * scale : A{0};
  }
}

// With S the sum of the chosen and g = p / S of the kept: dp = ([kept] dg - sum_kept dg g) / S for
// all the chosen.
template <class A>
__global__ void __launch_bounds__(kThreads)
    gates_gradient(Rows<A> dprobs, Rows<A> dgates, Rows<A> probs, Rows<std::uint8_t> chosen,
                   Rows<std::uint8_t> kept, bool renormalize, RowLanes all) {
  const RowOfLane my(all);
  A* const dp = dprobs[my.row];
  const A *const dg = dgates[my.row], *const p = probs[my.row];
  const std::uint8_t *const is_chosen = chosen[my.row], *const is_kept = kept[my.row];
  if (!renormalize) {
    for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
      dp[e] += is_kept[e] != 0 ? dg[e] : A{0};
    }
    return;
  }
  const A scale = inverse_of_chosen(my, p, is_chosen);
  A mean = 0;
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    mean += is_kept[e] != 0 ? dg[e] * p[e] : A{0};
  }
  mean = scale * my.sum(mean);
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    const A own = is_kept[e] != 0 ? dg[e] : A{0};
    dp[e] += is_chosen[e] != 0 ? (own - mean) * scale : A{0};
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    add_balance(Rows<A> dprobs, Rows<double> counts, double factor, std::int64_t rows,
                RowLanes all) {
  const RowOfLane my(all);
  A* const dp = dprobs[my.row];
  const double* const count = counts[my.row / rows];
  for (std::int64_t e = my.lane; e < my.end; e += my.lanes) {
    dp[e] = static_cast<A>(static_cast<double>(dp[e]) + factor * count[e]);
  }
}

// One warp a sequence.
__global__ void __launch_bounds__(kWarp)
    balance_of_sequences(Rows<double> losses, Rows<double> stats, std::int64_t experts,
                         double factor) {
  const double* const counts = stats[blockIdx.x];
  double sum = 0.0;
  for (std::int64_t e = threadIdx.x; e < experts; e += kWarp)
    sum += counts[e] * counts[experts + e];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) losses[blockIdx.x][0] = factor * sum;
}

// partial[b, piece, 2E+1]: the statistics of kPieceRows rows of a sequence.
template <class A>
__global__ void __launch_bounds__(kPieceThreads)
    statistics_of_pieces(double* partial, Rows<std::uint8_t> chosen, Rows<A> probs, const A* lse,
                         std::int64_t rows, std::int64_t experts, std::int64_t pieces) {
  __shared__ double counts[kPieceThreads], sums[kPieceThreads], warps[32];
  const PieceRows my(rows, pieces);
  const std::int64_t first_row = my.sequence * rows + my.first;
  double* const out = partial + blockIdx.x * (2 * experts + 1);
  for (std::int64_t first = 0; first < experts; first += kPieceThreads) {
    const PieceColumns at(first, experts, kPieceRows, my.count);
    double count = 0.0, sum = 0.0;
    for (int r = at.begin; r < at.end; ++r) {
      count += chosen[first_row + r][first + at.column] != 0 ? 1.0 : 0.0;
      sum += static_cast<double>(probs[first_row + r][first + at.column]);
    }
    counts[threadIdx.x] = count;
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < at.width) {
      for (int s = 1; s < at.segments; ++s) {
        count += counts[s * at.width + threadIdx.x];
        sum += sums[s * at.width + threadIdx.x];
      }
      out[first + threadIdx.x] = count;
      out[experts + first + threadIdx.x] = sum;
    }
    __syncthreads();
  }
  double squares = 0.0;
  for (int r = static_cast<int>(threadIdx.x); r < my.count; r += kPieceThreads) {
    const auto z = static_cast<double>(lse[first_row + r]);
    squares += z * z;
  }
  squares = block_sum(squares, warps);
  if (threadIdx.x == 0) out[2 * experts] = squares;
}

__global__ void __launch_bounds__(kThreads)
    sum_pieces(Rows<double> stats, const double* partial, std::int64_t sequences,
               std::int64_t pieces, std::int64_t width) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i >= sequences * width) return;
  const std::int64_t b = i / width, column = i % width;
  const double* const from = partial + b * pieces * width + column;
  double sum = 0.0;
#pragma unroll 8
  for (std::int64_t p = 0; p < pieces; ++p) sum += from[p * width];
  stats[b][column] = sum;
}

}  // namespace

void CudaKernels::moe_softmax(TensorView probs, TensorView lse, TensorView logits) {
  check_same(probs, logits);
  check_vector(lse, logits.dim(0));
  if (logits.elements() == 0) return;
  const RowLanes all(logits.dim(0), logits.dim(1));
  dispatch_accumulator(logits.dtype(), [&]<class A>() {
    launch("moe_softmax", softmax_of_rows<A>, all.grid(kThreads), dim3(kThreads), 0, stream_,
           Rows<A>(probs), lse.data<A>(), Rows<A>(logits), all);
  });
}

void CudaKernels::moe_softmax_backward(TensorView dlogits, TensorView dprobs, TensorView probs,
                                       TensorView lse, double z_scale) {
  check_same(dlogits, probs);
  check_same(dprobs, probs);
  check_vector(lse, probs.dim(0));
  if (probs.elements() == 0) return;
  const RowLanes all(probs.dim(0), probs.dim(1));
  dispatch_accumulator(probs.dtype(), [&]<class A>() {
    launch("moe_softmax_backward", softmax_gradient<A>, all.grid(kThreads), dim3(kThreads), 0,
           stream_, Rows<A>(dlogits), Rows<A>(dprobs), Rows<A>(probs), lse.data<A>(), z_scale, all);
  });
}

void CudaKernels::moe_gates(TensorView gates, TensorView probs, TensorView chosen, TensorView kept,
                            bool renormalize) {
  for (const TensorView& x : {gates, chosen, kept}) check_same(x, probs);
  if (probs.elements() == 0) return;
  const RowLanes all(probs.dim(0), probs.dim(1));
  dispatch_accumulator(probs.dtype(), [&]<class A>() {
    launch("moe_gates", gates_of_rows<A>, all.grid(kThreads), dim3(kThreads), 0, stream_,
           Rows<A>(gates), Rows<A>(probs), Rows<std::uint8_t>(chosen), Rows<std::uint8_t>(kept),
           renormalize, all);
  });
}

void CudaKernels::moe_gates_backward(TensorView dprobs, TensorView dgates, TensorView probs,
                                     TensorView chosen, TensorView kept, bool renormalize) {
  for (const TensorView& x : {dprobs, dgates, chosen, kept}) check_same(x, probs);
  if (probs.elements() == 0) return;
  const RowLanes all(probs.dim(0), probs.dim(1));
  dispatch_accumulator(probs.dtype(), [&]<class A>() {
    launch("moe_gates_backward", gates_gradient<A>, all.grid(kThreads), dim3(kThreads), 0, stream_,
           Rows<A>(dprobs), Rows<A>(dgates), Rows<A>(probs), Rows<std::uint8_t>(chosen),
           Rows<std::uint8_t>(kept), renormalize, all);
  });
}

void CudaKernels::moe_balance_loss(TensorView losses, TensorView stats, double factor) {
  require_cuda(losses);
  require_cuda(stats);
  PG_ASSERT(losses.rank() == 2 && stats.rank() == 2 && losses.dim(0) == stats.dim(0) &&
                losses.dim(1) == 1 && stats.dim(1) % 2 == 1,
            "losses {} stats {}", losses.text(), stats.text());
  if (stats.dim(0) == 0) return;
  launch("moe_balance_loss", balance_of_sequences, dim3(blocks_of(stats.dim(0))), dim3(kWarp), 0,
         stream_, Rows<double>(losses), Rows<double>(stats), stats.dim(1) / 2, factor);
}

void CudaKernels::moe_balance_backward(TensorView dprobs, TensorView counts, double factor) {
  require_cuda(dprobs);
  require_cuda(counts);
  PG_ASSERT(dprobs.rank() == 2 && counts.rank() == 2 && counts.dim(0) > 0 &&
                counts.dim(1) == dprobs.dim(1) && dprobs.dim(0) % counts.dim(0) == 0,
            "dprobs {} counts {}", dprobs.text(), counts.text());
  if (dprobs.elements() == 0) return;
  const RowLanes all(dprobs.dim(0), dprobs.dim(1));
  dispatch_accumulator(dprobs.dtype(), [&]<class A>() {
    launch("moe_balance_backward", add_balance<A>, all.grid(kThreads), dim3(kThreads), 0, stream_,
           Rows<A>(dprobs), Rows<double>(counts), factor, dprobs.dim(0) / counts.dim(0), all);
  });
}

void CudaKernels::moe_statistics(TensorView stats, TensorView chosen, TensorView probs,
                                 TensorView lse) {
  check_same(chosen, probs);
  check_vector(lse, probs.dim(0));
  require_cuda(stats);
  const std::int64_t experts = probs.dim(1), width = 2 * experts + 1;
  PG_ASSERT(stats.rank() == 2 && stats.dim(0) > 0 && stats.dim(1) == width &&
                probs.dim(0) % stats.dim(0) == 0,
            "stats {} probs {}", stats.text(), probs.text());
  const std::int64_t sequences = stats.dim(0), rows = probs.dim(0) / sequences;
  const std::int64_t pieces = pieces_of(rows);
  double* const partial = static_cast<double*>(workspace_.take(
      static_cast<std::size_t>(std::max<std::int64_t>(1, sequences * pieces * width)) *
      sizeof(double)));
  if (pieces > 0) {
    dispatch_accumulator(probs.dtype(), [&]<class A>() {
      launch("moe_statistics", statistics_of_pieces<A>, dim3(blocks_of(sequences * pieces)),
             dim3(kPieceThreads), 0, stream_, partial, Rows<std::uint8_t>(chosen), Rows<A>(probs),
             lse.data<A>(), rows, experts, pieces);
    });
  }
  launch("moe_statistics", sum_pieces, dim3(blocks_of(ceil_div(sequences * width, kThreads))),
         dim3(kThreads), 0, stream_, Rows<double>(stats), partial, sequences, pieces, width);
}

}  // namespace pg::model
