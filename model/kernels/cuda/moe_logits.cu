// The router's product and its gradients, computed in the accumulator type whatever tokens and
// weights are stored in: which expert a token meets must not hang on the rounding of its logits.
// One side of each product is short (8 to some 256 experts), and its operands are of two types: so
// they are our own, without tensor cores, and are bound by memory for few experts.
//
// A block computes a tile of kTall rows by kWide columns, kDepth terms at a time from shared
// memory, 8 x 4 results a thread. Narrow tiles have too few results for its threads: there, groups
// of threads take some of each kDepth terms, and the groups' sums meet in order. A result's terms
// are thus added in an order that its sizes alone decide: a token's logits depend on no other
// token.
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/moe_views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 128, kTall = 64, kDepth = 32, kMine = 8, kFour = 4;

// Element (i, term) of an operand stands at i * stride + term, or at term * stride + i if `i` runs
// along memory's rows. `count`: of i. `packed`: rows are whole packs.
template <class T>
struct Operand {
  const T* base;
  std::int64_t stride, count;
  bool packed;

  explicit Operand(const TensorView& x, std::int64_t extent)
      : base(x.data<T>()), stride(x.stride(0)), count(extent), packed(whole_packs<T>(x)) {}
};

// Four neighbours in shared memory or in a result.
template <class A>
struct alignas(sizeof(A) == 2 ? 8 : 16) Four {
  A at[kFour];
};

// One operand's part of a tile: on its way in registers, then in shared memory as [kDepth, kSide]
// in the accumulator type.
template <class T, int kSide, bool kTermsAdjoin, bool kPacked>
struct Side {
  using A = acc_t<T>;
  static constexpr int kSize = Pack<T>::kSize, kPacks = kSide * kDepth / kSize;
  static constexpr int kCount = (kPacks + kThreads - 1) / kThreads;
  static constexpr int kPerRow = (kTermsAdjoin ? kDepth : kSide) / kSize;
  static_assert((kTermsAdjoin ? kDepth : kSide) % kSize == 0);

  Pack<T> pack[kCount] = {};

  // Where memory's rows hold terms, neighbouring lanes store different terms of few columns: moving
  // each row of shared memory by some groups of four spreads them over the banks.
  static __device__ __forceinline__ int swizzle(int term) {
    return kTermsAdjoin ? term / kSize * (kSize == 8 ? 8 : 4) & 28 & (kSide - 4) : 0;
  }
  static __device__ __forceinline__ void place(int p, int* i, int* term) {
    const int along = p % kPerRow * kSize, row = p / kPerRow;
    *i = kTermsAdjoin ? row : along;
    *term = kTermsAdjoin ? along : row;
  }

  // Elements [first, first + kSide) x terms [term0, term0 + kDepth), zeros behind count and
  // `terms`.
  __device__ __forceinline__ void load(const Operand<T>& from, std::int64_t first,
                                       std::int64_t term0, std::int64_t terms) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const int p = c * kThreads + static_cast<int>(threadIdx.x);
      if (kPacks % kThreads != 0 && p >= kPacks) break;
      int i = 0, term = 0;
      place(p, &i, &term);
      const std::int64_t row = kTermsAdjoin ? first + i : term0 + term;
      const std::int64_t at = kTermsAdjoin ? term0 + term : first + i;
      const std::int64_t rows = kTermsAdjoin ? from.count : terms;
      const std::int64_t left = row < rows ? (kTermsAdjoin ? terms : from.count) - at : 0;
      pack[c] = load_some<kPacked>(from.base + row * from.stride + at, left);
    }
  }
  __device__ __forceinline__ void keep(A* tile) const {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const int p = c * kThreads + static_cast<int>(threadIdx.x);
      if (kPacks % kThreads != 0 && p >= kPacks) break;
      int i = 0, term = 0;
      place(p, &i, &term);
      if constexpr (!kTermsAdjoin && kSize % kFour == 0) {
#pragma unroll
        for (int j = 0; j < kSize; j += kFour) {
          *reinterpret_cast<Four<A>*>(tile + term * kSide + i + j) = {
              cuda::load(pack[c].at[j]), cuda::load(pack[c].at[j + 1]),
              cuda::load(pack[c].at[j + 2]), cuda::load(pack[c].at[j + 3])};
        }
      } else {
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          const int at = kTermsAdjoin ? i ^ swizzle(term) : i + j;
          tile[(kTermsAdjoin ? term + j : term) * kSide + at] = cuda::load(pack[c].at[j]);
        }
      }
    }
  }
};

// Four neighbours of a result.
template <class T>
__device__ __forceinline__ void put_four(T* to, const acc_t<T>* sums, std::int64_t left, bool add,
                                         bool packed) {
  if (packed && left >= kFour) {
    using Quad = Four<T>;
    Quad four;
    if (add) four = *reinterpret_cast<const Quad*>(to);
#pragma unroll
    for (int i = 0; i < kFour; ++i) {
      four.at[i] = store<T>(add ? load(four.at[i]) + sums[i] : sums[i]);
    }
    *reinterpret_cast<Quad*>(to) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < kFour; ++i) {
    if (i < left) to[i] = store<T>(add ? load(to[i]) + sums[i] : sums[i]);
  }
}

// The three products: types and layouts of their operands and results.
// logits[n, e] = sum over c of x[n, c] w[e, c].
template <class T>
struct Logits {
  using Tall = T;
  using Wide = T;
  using Out = acc_t<T>;
  static constexpr bool kTallTerms = true, kWideTerms = true, kAdd = false, kTransposed = false;
};
// dx[n, c] += sum over e of dlogits[n, e] w[e, c].
template <class T>
struct InputGradient {
  using Tall = acc_t<T>;
  using Wide = T;
  using Out = T;
  static constexpr bool kTallTerms = true, kWideTerms = false, kAdd = true, kTransposed = false;
};
// partial[split, e, c] = sum over n of the split of x[n, c] dlogits[n, e], with c the tall side.
template <class T>
struct WeightGradient {
  using Tall = T;
  using Wide = acc_t<T>;
  using Out = acc_t<T>;
  static constexpr bool kTallTerms = false, kWideTerms = false, kAdd = false, kTransposed = true;
};

// Results of one split of the terms begin `split_stride` behind those of the one before.
template <class T>
struct Result {
  T* base;
  std::int64_t stride, split_stride;
  bool packed;
};

// So many blocks at once keep memory busy; fp64 has not the registers.
template <class T>
constexpr int kBlocksAnSm = sizeof(acc_t<T>) == 8 ? 2 : 4;

// Split s = blockIdx.y takes terms [s * chunk, (s + 1) * chunk). Tiles of the same tall rows follow
// each other, so that these are read from memory once.
template <class P, int kWide, bool kPacked>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<typename P::Tall>)
    product(Operand<typename P::Tall> tall, Operand<typename P::Wide> wide,
            Result<typename P::Out> out, std::int64_t all_terms, std::int64_t chunk) {
  using A = acc_t<typename P::Tall>;
  constexpr int kColumns = kWide / kFour;             // threads along a tile's row
  constexpr int kGroup = kColumns * (kTall / kMine);  // threads with a tile's results
  constexpr int kGroups = kThreads / kGroup, kTerms = kDepth / kGroups;  // terms of a group
  constexpr int kUnroll = kTerms < 8 ? kTerms : 8;
  using TallSide = Side<typename P::Tall, kTall, P::kTallTerms, kPacked>;
  using WideSide = Side<typename P::Wide, kWide, P::kWideTerms, kPacked>;
  __shared__ __align__(16) A tile[kDepth * (kTall + kWide)];
  A *const tall_tile = tile, *const wide_tile = tile + kDepth * kTall;

  const auto thread = static_cast<int>(threadIdx.x);
  const int group = thread / kGroup;
  const int row = thread % kGroup / kColumns * kFour;  // and as many in the tile's lower half
  const int column = thread % kColumns * kFour;
  const std::int64_t wide_tiles = (wide.count + kWide - 1) / kWide;
  const std::int64_t tall0 = blockIdx.x / wide_tiles * kTall;
  const std::int64_t wide0 = blockIdx.x % wide_tiles * kWide;
  const std::int64_t begin = blockIdx.y * chunk;
  const std::int64_t end = begin + chunk < all_terms ? begin + chunk : all_terms;

  A sums[kMine][kFour] = {};
  TallSide tall_side;
  WideSide wide_side;
  tall_side.load(tall, tall0, begin, end);
  wide_side.load(wide, wide0, begin, end);
  for (std::int64_t term0 = begin; term0 < end; term0 += kDepth) {
    tall_side.keep(tall_tile);
    wide_side.keep(wide_tile);
    __syncthreads();
    if (term0 + kDepth < end) {
      tall_side.load(tall, tall0, term0 + kDepth, end);
      wide_side.load(wide, wide0, term0 + kDepth, end);
    }
    for (int t = group * kTerms; t < (group + 1) * kTerms; t += kUnroll) {
      if (term0 + t >= end) break;  // zeros from here on
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const A* const of_tall = tall_tile + (t + u) * kTall + (row ^ TallSide::swizzle(t + u));
        const A* const of_wide = wide_tile + (t + u) * kWide + (column ^ WideSide::swizzle(t + u));
        const auto upper = *reinterpret_cast<const Four<A>*>(of_tall);
        const auto lower = *reinterpret_cast<const Four<A>*>(of_tall + kTall / 2);
        const auto across = *reinterpret_cast<const Four<A>*>(of_wide);
#pragma unroll
        for (int i = 0; i < kFour; ++i) {
#pragma unroll
          for (int j = 0; j < kFour; ++j) {
            sums[i][j] += upper.at[i] * across.at[j];
            sums[kFour + i][j] += lower.at[i] * across.at[j];
          }
        }
      }
    }
    __syncthreads();
  }

  // The other groups' sums, one group after the other, through the tile's memory.
  for (int g = 1; g < kGroups; ++g) {
    static_assert(kGroups == 1 || kTall * kWide <= kDepth * (kTall + kWide));
    A* const mine = tile + thread % kGroup;
    if (group == g) {
#pragma unroll
      for (int i = 0; i < kMine * kFour; ++i) mine[i * kGroup] = sums[i / kFour][i % kFour];
    }
    __syncthreads();
    if (group == 0) {
#pragma unroll
      for (int i = 0; i < kMine * kFour; ++i) sums[i / kFour][i % kFour] += mine[i * kGroup];
    }
    __syncthreads();
  }
  if (group != 0) return;

  auto* const to = out.base + blockIdx.y * out.split_stride;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t r0 = tall0 + half * (kTall / 2) + row, c0 = wide0 + column;
#pragma unroll
    for (int k = 0; k < kFour; ++k) {
      if constexpr (P::kTransposed) {
        const A four[kFour] = {sums[half * kFour][k], sums[half * kFour + 1][k],
                               sums[half * kFour + 2][k], sums[half * kFour + 3][k]};
        if (c0 + k < wide.count) {
          put_four(to + (c0 + k) * out.stride + r0, four, tall.count - r0, P::kAdd, out.packed);
        }
      } else if (r0 + k < tall.count) {
        put_four(to + (r0 + k) * out.stride + c0, sums[half * kFour + k], wide.count - c0, P::kAdd,
                 out.packed);
      }
    }
  }
}

// dw[e, c] += the splits' sums, in order.
template <class A>
__global__ void __launch_bounds__(kThreads)
    add_splits(Rows<A> dw, const A* partial, std::int64_t splits, std::int64_t experts,
               std::int64_t channels) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i >= experts * channels) return;
  A sum = 0;
#pragma unroll 4
  for (std::int64_t s = 0; s < splits; ++s) sum += partial[s * experts * channels + i];
  dw[i / channels][i % channels] += sum;
}

struct Launch {
  const char* name;
  cudaStream_t stream;
  std::int64_t splits, chunk;
};

template <class P, int kWide>
void run_product(const Launch& how, const Operand<typename P::Tall>& tall,
                 const Operand<typename P::Wide>& wide, const Result<typename P::Out>& out,
                 std::int64_t terms) {
  const auto tiles = ceil_div(tall.count, kTall) * ceil_div(wide.count, kWide);
  const auto kernel =
      tall.packed && wide.packed ? product<P, kWide, true> : product<P, kWide, false>;
  launch(how.name, kernel, dim3(blocks_of(tiles), blocks_of(how.splits)), dim3(kThreads), 0,
         how.stream, tall, wide, out, terms, how.chunk);
}

// A tile as wide as there are experts, up to 64.
template <class P>
void run_by_experts(const Launch& how, const Operand<typename P::Tall>& tall,
                    const Operand<typename P::Wide>& wide, const Result<typename P::Out>& out,
                    std::int64_t terms) {
  const auto run = wide.count <= 8    ? run_product<P, 8>
                   : wide.count <= 16 ? run_product<P, 16>
                   : wide.count <= 32 ? run_product<P, 32>
                                      : run_product<P, 64>;
  run(how, tall, wide, out, terms);
}

void check_shapes(const TensorView& logits, const TensorView& x, const TensorView& w) {
  for (const auto& view : {logits, x, w}) require_cuda(view);
  PG_ASSERT(logits.rank() == 2 && x.rank() == 2 && w.rank() == 2 && logits.dim(0) == x.dim(0) &&
                logits.dim(1) == w.dim(0) && x.dim(1) == w.dim(1) && x.dtype() == w.dtype(),
            "logits {} x {} w {}", logits.text(), x.text(), w.text());
}

template <class T>
void backward_weight(cuda::Workspace& workspace, cudaStream_t stream, TensorView dw,
                     TensorView dlogits, TensorView x) {
  using A = acc_t<T>;
  constexpr std::int64_t kBlocks = 1024;  // enough for a large GPU; by sizes alone, not by the GPU
  const std::int64_t tokens = x.dim(0), experts = dw.dim(0), channels = dw.dim(1);
  const auto tiles = ceil_div(channels, kTall) * ceil_div(experts, kTall);
  const auto most = ceil_div(tokens, 8 * kDepth);
  const auto wanted = std::clamp<std::int64_t>(ceil_div(kBlocks, tiles), 1, most);
  const auto chunk = ceil_div(ceil_div(tokens, wanted), kDepth) * kDepth;
  const auto splits = ceil_div(tokens, chunk);
  A* const partial = static_cast<A*>(
      workspace.take(static_cast<std::size_t>(splits * experts * channels) * sizeof(A)));
  run_by_experts<WeightGradient<T>>({"moe_logits_backward", stream, splits, chunk},
                                    Operand<T>(x, channels), Operand<A>(dlogits, experts),
                                    {partial, channels, experts * channels, channels % kFour == 0},
                                    tokens);
  launch("moe_logits_backward", add_splits<A>,
         dim3(blocks_of(ceil_div(experts * channels, kThreads))), dim3(kThreads), 0, stream,
         Rows<A>(dw), partial, splits, experts, channels);
}

}  // namespace

void CudaKernels::moe_logits(TensorView logits, TensorView x, TensorView w) {
  check_shapes(logits, x, w);
  if (logits.elements() == 0) return;
  dispatch(x.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const Result<A> out{logits.data<A>(), logits.stride(0), 0, rows_aligned(logits)};
    run_by_experts<Logits<T>>({"moe_logits", stream_, 1, x.dim(1)}, Operand<T>(x, x.dim(0)),
                              Operand<T>(w, w.dim(0)), out, x.dim(1));
  });
}

void CudaKernels::moe_logits_backward(TensorView dx, TensorView dw, TensorView dlogits,
                                      TensorView x, TensorView w) {
  check_shapes(dlogits, x, w);
  check_same(dw, w);
  if (!dx.empty()) check_same(dx, x);
  if (x.elements() == 0 || w.elements() == 0) return;
  const std::int64_t experts = w.dim(0);
  dispatch(x.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    if (!dx.empty()) {
      const Result<T> out{dx.data<T>(), dx.stride(0), 0, rows_aligned(dx)};
      run_product<InputGradient<T>, kTall>({"moe_logits_backward", stream_, 1, experts},
                                           Operand<A>(dlogits, x.dim(0)), Operand<T>(w, x.dim(1)),
                                           out, experts);
    }
    backward_weight<T>(workspace_, stream_, dw, dlogits, x);
  });
}

}  // namespace pg::model
