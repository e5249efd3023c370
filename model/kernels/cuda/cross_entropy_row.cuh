// One block's work on one row of logits, which the fused and the vocabulary-parallel cross-entropy
// share: the log-sum-exp in one reading of the row, and the gradient in another (a row is too long
// to be kept: 600 KB for a vocabulary of 150,000).
//
// A NaN never raises the maximum but always enters the sum, so a row that holds one has a NaN loss
// and a NaN gradient; so has a row with +inf. Single logits of -inf are fine.
#pragma once

#include <cmath>
#include <cstdint>

#include "model/kernels/cuda/rows.cuh"

namespace pg::model::cuda {

// Short rows are no work for many threads; of long ones few at a time, so that the second reading
// finds some of the first in the cache. By width and type alone: sums depend on it.
// (fp64 needs the registers of more.)
template <class A>
constexpr unsigned most_row_threads() {
  return sizeof(A) == 8 ? 512 : 1024;
}
template <class A>
unsigned row_threads(std::int64_t width) {
  return width < 8192 ? 128 : most_row_threads<A>();
}

__device__ __forceinline__ float exponential(float x) {
  return expf(x);
}
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}

// While all logits are -inf the shift is 0: -inf - (-inf) would be NaN.
template <class A>
__device__ __forceinline__ A shift_below(A top) {
  return top == -static_cast<A>(INFINITY) ? A{0} : top;
}

// log(sum of exp(x)) = shift_below(top) + log(sum).
struct LogSumExp {
  double top, sum;  // the largest x, -inf if all are -inf or NaN; sum of exp(x - shift)
};

// Each thread keeps a maximum and a sum of its own, which it rescales when the maximum grows
// (Milakov & Gimelshein 2018); packs are summed in A, all else in fp64.
template <class A>
__device__ LogSumExp log_sum_exp(const A* x, std::int64_t n, bool packed) {
  constexpr int kPacks = 4, kSize = Pack<A>::kSize;
  constexpr A kLowest = -static_cast<A>(INFINITY);
  __shared__ double partial[32];
  __shared__ A tops[32];
  A top = kLowest;
  double sum = 0.0;
  const std::int64_t step = std::int64_t{blockDim.x} * kSize;
  for (std::int64_t first = threadIdx.x * std::int64_t{kSize}; first < n; first += kPacks * step) {
    Pack<A> pack[kPacks];
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const std::int64_t at = first + j * step;
      pack[j] = load_upto(x + at, n - at, packed, kLowest);
    }
    A highest = kLowest;
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        highest = pack[j].at[i] > highest ? pack[j].at[i] : highest;
      }
    }
    if (highest > top) {
      sum *= exp(static_cast<double>(top) - static_cast<double>(highest));
      top = highest;
    }
    const A below = shift_below(top);
    A added = 0;
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) added += exponential(pack[j].at[i] - below);
    }
    sum += static_cast<double>(added);
  }

  A highest = top;
  for (int lane = 16; lane > 0; lane /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, highest, lane);
    highest = other > highest ? other : highest;
  }
  if (threadIdx.x % kWarp == 0) tops[threadIdx.x / kWarp] = highest;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) {
    highest = tops[warp] > highest ? tops[warp] : highest;
  }
  const auto whole = static_cast<double>(highest);
  // A thread that has met nothing but -inf and NaN: exp(-inf) is 0, and a NaN in its sum stays one.
  sum *= exp(static_cast<double>(top) - shift_below(whole));
  return {whole, block_sum(sum, partial)};
}

// Where the target stands in the row, and what its element of the gradient is.
template <class D>
struct Target {
  std::int64_t column;  // -1: not in this row
  D gradient;
};

// gradient[i] = exp(x[i] - shift) * factor, but for the target. `gradient` may be x: each element
// is read and written by one thread.
template <class A, class D>
__device__ void write_gradient(D* gradient, const A* x, std::int64_t n, A shift, A factor,
                               Target<D> target, bool packed) {
  const auto of = [=](A value) { return convert<D>(exponential(value - shift) * factor); };
  if (!packed) {
    // Neighbours by neighbours, four loads on their way before the first store.
    constexpr int kBatch = 4;
    for (std::int64_t first = threadIdx.x; first < n; first += std::int64_t{kBatch} * blockDim.x) {
      A value[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const std::int64_t at = first + j * std::int64_t{blockDim.x};
        value[j] = at < n ? x[at] : A{0};
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const std::int64_t at = first + j * std::int64_t{blockDim.x};
        if (at < n) gradient[at] = at == target.column ? target.gradient : of(value[j]);
      }
    }
    return;
  }
  // A run fills one pack of the narrower type and several of the other.
  constexpr int kRun = sizeof(D) < sizeof(A) ? Pack<D>::kSize : Pack<A>::kSize;
  constexpr int kIn = Pack<A>::kSize, kOut = Pack<D>::kSize;
  // 64 bytes on their way at once; 32 in fp64, whose exponentials need the registers.
  constexpr int kBytes = sizeof(A) == 8 ? 32 : 64, kRunBytes = kRun * static_cast<int>(sizeof(A));
  constexpr int kBatch = kRunBytes >= kBytes ? 1 : kBytes / kRunBytes;
  const std::int64_t step = std::int64_t{blockDim.x} * kRun;
  for (std::int64_t first = threadIdx.x * std::int64_t{kRun}; first < n; first += kBatch * step) {
    Pack<A> in[kBatch][kRun / kIn];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
#pragma unroll
      for (int p = 0; p < kRun / kIn; ++p) {
        const std::int64_t at = first + j * step + p * kIn;
        in[j][p] = load_upto(x + at, n - at, true);
      }
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const std::int64_t at = first + j * step;
#pragma unroll
      for (int p = 0; p < kRun / kOut; ++p) {
        Pack<D> out;
#pragma unroll
        for (int i = 0; i < kOut; ++i) {
          const int e = p * kOut + i;
          out.at[i] = of(in[j][e / kIn].at[e % kIn]);
        }
        store_upto(gradient + at + p * kOut, out, n - at - p * kOut, true);
      }
      const std::int64_t here = target.column - at;
      if (target.column >= 0 && here >= 0 && here < kRun) {
        gradient[target.column] = target.gradient;
      }
    }
  }
}

// The gradient of a row that is ignored.
template <class D>
__device__ void write_zeros(D* gradient, std::int64_t n, bool packed) {
  constexpr int kSize = Pack<D>::kSize;
  for (std::int64_t at = threadIdx.x * std::int64_t{kSize}; at < n;
       at += std::int64_t{blockDim.x} * kSize) {
    Pack<D> zeros;
#pragma unroll
    for (int i = 0; i < kSize; ++i) zeros.at[i] = D{};
    store_upto(gradient + at, zeros, n - at, packed);
  }
}

}  // namespace pg::model::cuda
