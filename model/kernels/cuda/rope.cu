// Rotary embedding. A block takes a few tokens with all their heads: it computes each angle's sine
// and cosine once, in double as the CPU does (an angle of thousands of radians has no correct bits
// in float), keeps them in shared memory in the accumulator type and turns every head by them.
#include <cmath>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/tiles.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;
// Pairs of one launch: their frequencies travel with the kernel's parameters. Larger heads take
// several launches.
constexpr int kPairs = 256;
constexpr int kAngles = kThreads;  // of a block: tokens times pairs

template <class T>
struct Rotation {
  T* x;
  const std::int32_t* positions;
  std::int64_t tokens, token_stride, head_stride;
  int heads, half;          // of a head
  int pairs, block_tokens;  // of this launch, of a block
  double direction;         // -1: back
  double frequencies[kPairs];
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) rope_tokens(const __grid_constant__ Rotation<T> o) {
  using A = acc_t<T>;
  constexpr int kPack = Pack<T>::kSize, kUnroll = 2;
  __shared__ A cosines[kAngles], sines[kAngles];  // [block_tokens][pairs]
  const std::int64_t first = std::int64_t{blockIdx.x} * o.block_tokens;
  const std::int64_t left = o.tokens - first;
  const int tokens = left < o.block_tokens ? static_cast<int>(left) : o.block_tokens;

  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < tokens * o.pairs;
       i += threads) {
    const int token = i / o.pairs, pair = i - token * o.pairs;
    const double angle = static_cast<double>(o.positions[first + token]) * o.frequencies[pair];
    double sine = 0.0, cosine = 0.0;
    sincos(angle, &sine, &cosine);  // one reduction of the argument for both
    cosines[i] = static_cast<A>(cosine);
    sines[i] = static_cast<A>(o.direction * sine);
  }
  __syncthreads();

  // x: packs of pairs; y: heads of the block's tokens.
  const int items = tokens * o.heads, packs = (o.pairs + kPack - 1) / kPack;
  for (int pack = static_cast<int>(threadIdx.x); pack < packs;
       pack += static_cast<int>(blockDim.x)) {
    const int pair = pack * kPack, n = o.pairs - pair < kPack ? o.pairs - pair : kPack;
    const int step = static_cast<int>(blockDim.y);
    for (int item = static_cast<int>(threadIdx.y); item < items; item += kUnroll * step) {
      Held<T> low[kUnroll], high[kUnroll];
      T* at[kUnroll];
      int token[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (item + u * step >= items) break;
        token[u] = (item + u * step) / o.heads;
        const int head = item + u * step - token[u] * o.heads;
        at[u] = o.x + (first + token[u]) * o.token_stride + head * o.head_stride + pair;
        low[u] = load_held<kAligned>(at[u], n);
        high[u] = load_held<kAligned>(at[u] + o.half, n);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (item + u * step >= items) break;
        A turned_low[kPack], turned_high[kPack];
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          // Behind the last pair any angle will do: nothing of it is stored.
          const int angle = token[u] * o.pairs + (e < n ? pair + e : pair);
          const A cosine = cosines[angle], sine = sines[angle];
          const A a = low[u][e], b = high[u][e];
          // Which of two products is rounded is said here, not left to the compiler.
          turned_low[e] = std::fma(a, cosine, -(b * sine));
          turned_high[e] = std::fma(b, cosine, a * sine);
        }
        store_held<kAligned>(at[u], round_held<T>(turned_low), n);
        store_held<kAligned>(at[u] + o.half, round_held<T>(turned_high), n);
      }
    }
  }
}

template <class T>
bool heads_aligned(const TensorView& x) {
  constexpr std::int64_t kPack = Pack<T>::kSize;
  return aligned16(x.raw()) && x.dim(2) / 2 % kPack == 0 && x.stride(0) % kPack == 0 &&
         x.stride(1) % kPack == 0;
}

template <class T>
void turn(cudaStream_t stream, const TensorView& x, const std::int32_t* positions, double theta,
          bool inverse) {
  const std::int64_t half = x.dim(2) / 2;
  PG_ASSERT(x.dim(1) < (1 << 20) && half < (1 << 20), "heads of {}", x.text());
  const auto kernel = heads_aligned<T>(x) ? rope_tokens<T, true> : rope_tokens<T, false>;
  for (std::int64_t first = 0; first < half; first += kPairs) {
    const auto pairs = static_cast<int>(std::min<std::int64_t>(kPairs, half - first));
    Rotation<T> o{x.data<T>() + first,
                  positions,
                  x.dim(0),
                  x.stride(0),
                  x.stride(1),
                  static_cast<int>(x.dim(1)),
                  static_cast<int>(half),
                  pairs,
                  std::min(kAngles / pairs, 16),
                  inverse ? -1.0 : 1.0,
                  {}};
    for (int d = 0; d < pairs; ++d) {
      o.frequencies[d] =
          std::pow(theta, -2.0 * static_cast<double>(first + d) / static_cast<double>(x.dim(2)));
    }
    const auto packs = static_cast<unsigned>(ceil_div(pairs, Pack<T>::kSize));
    launch("rope", kernel, dim3(blocks_of(ceil_div(x.dim(0), o.block_tokens))),
           dim3(packs, kThreads / packs), 0, stream, o);
  }
}

}  // namespace

void CudaKernels::rope(TensorView x, TensorView positions, double theta, bool inverse) {
  PG_ASSERT(x.rank() == 3 && x.dim(2) % 2 == 0, "x {}: an even head size is needed", x.text());
  PG_ASSERT(positions.rank() == 1 && positions.dim(0) == x.dim(0) && positions.contiguous(),
            "positions {} x {}", positions.text(), x.text());
  PG_ASSERT(theta > 0.0, "theta {}", theta);
  require_cuda(x);
  require_cuda(positions);
  if (x.elements() == 0) return;
  dispatch(x.dtype(),
           [&]<class T>() { turn<T>(stream_, x, positions.data<std::int32_t>(), theta, inverse); });
}

}  // namespace pg::model
