// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) with the residual add fused in.
//
// r is rounded to its storage type first and normalised as stored, so backward sees the same
// numbers. A row belongs to one warp or, where that would be too many elements a thread, to one
// block; it is read once and stays in registers between the passes over it (mean, squares, result).
// What is too wide for that is read again, for the most part from the nearest cache. Which thread
// has which elements depends on the width alone, so the bits do not depend on addresses.
#include "model/kernels/cuda/columns.cuh"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/tiles.cuh"

namespace pg::model {

namespace {

using namespace cuda;

// Packs of a row that a thread holds.
constexpr int kForwardHeld = 4;
// Backward also holds the columns' gradients: rows wider than two packs of kBackwardThreads threads
// take four.
constexpr int kBackwardThreads = 512;

// The threads of a row: as few as hold it, whole warps, at most `most`.
int row_threads(std::int64_t packs, int held, int most) {
  int threads = kWarp;
  while (threads < most && std::int64_t{threads} * held < packs) threads *= 2;
  return threads;
}
// Rows of one warp come four to a block.
int block_rows(int threads) {
  return threads == kWarp ? 4 : 1;
}

// work(slot, at, n) for this thread's packs [at, at + n) of a row, n <= kSize: first those that it
// holds, slot < kHeld, then the rest with slot kHeld. `slot` is a constant wherever it is used.
template <class T, int kHeld, class Work>
__device__ __forceinline__ void for_packs(int width, const Work& work) {
  constexpr int kPack = Pack<T>::kSize;
  const int step = static_cast<int>(blockDim.x) * kPack;
  int at = static_cast<int>(threadIdx.x) * kPack;
#pragma unroll
  for (int slot = 0; slot < kHeld; ++slot, at += step) {
    if (at < width) work(slot, at, width - at < kPack ? width - at : kPack);
  }
  for (; at < width; at += step) work(kHeld, at, width - at < kPack ? width - at : kPack);
}

// Both sums over the threads of a row; every thread gets the same bits. `partial` is shared.
template <class A>
__device__ __forceinline__ void row_sums(A& a, A& b, A (&partial)[2][kWarp]) {
  a = warp_sum(a);
  b = warp_sum(b);
  const unsigned warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  if (warps == 1) return;
  __syncthreads();
  if (lane == 0) {
    partial[0][threadIdx.x / kWarp] = a;
    partial[1][threadIdx.x / kWarp] = b;
  }
  __syncthreads();
  a = warp_sum(lane < warps ? partial[0][lane] : A{});
  b = warp_sum(lane < warps ? partial[1][lane] : A{});
}

template <class T>
struct Rows {
  T* base = nullptr;
  std::int64_t stride = 0;

  Rows() = default;
  explicit Rows(const TensorView& x)
      : base(x.empty() ? nullptr : x.data<T>()), stride(x.empty() ? 0 : x.stride(0)) {}
  __device__ T* operator[](std::int64_t row) const { return base + row * stride; }
};

template <class T>
struct Forward {
  Rows<T> y, r, residual, x;  // x may be null
  Rows<acc_t<T>> stats;
  const T *gamma, *beta;  // beta may be null
  std::int64_t rows;
  int width;
  acc_t<T> eps;
};

template <class T, bool kCentred, bool kAligned>
__global__ void __launch_bounds__(1024) norm_forward_rows(Forward<T> f) {
  using A = acc_t<T>;
  constexpr int kPack = Pack<T>::kSize, kHeld = kForwardHeld;
  __shared__ A partial[kWarp];
  const std::int64_t row = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  // A block of several rows meets no barrier: each is a warp's.
  if (row >= f.rows) return;
  const bool adds = f.x.base != nullptr;
  const T *const residual = f.residual[row], *const branch = adds ? f.x[row] : nullptr;
  T* const r = adds ? f.r[row] : nullptr;
  const T* const in = adds ? r : residual;

  Held<T> held[kHeld], added[kHeld];
  for_packs<T, kHeld>(f.width, [&](int slot, int at, int n) {
    if (slot == kHeld) return;
    held[slot] = load_held<kAligned>(residual + at, n);
    if (adds) added[slot] = load_held<kAligned>(branch + at, n);
  });
  A sum{};
  for_packs<T, kHeld>(f.width, [&](int slot, int at, int n) {
    Held<T> value = slot < kHeld ? held[slot] : load_held<kAligned>(residual + at, n);
    if (adds) {
      const Held<T> other = slot < kHeld ? added[slot] : load_held<kAligned>(branch + at, n);
      A out[kPack];
#pragma unroll
      for (int e = 0; e < kPack; ++e) out[e] = value[e] + other[e];
      value = round_held<T>(out);
      store_held<kAligned>(r + at, value, n);
      if (slot < kHeld) held[slot] = value;
    }
    if constexpr (kCentred) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += value[e];  // zeros behind the row's end
    }
  });
  // On their way while the sums are made.
  Held<T> gamma[kHeld];
  for_packs<T, kHeld>(f.width, [&](int slot, int at, int n) {
    if (slot < kHeld) gamma[slot] = load_held<kAligned>(f.gamma + at, n);
  });

  const A count = static_cast<A>(f.width);
  const A mean = kCentred ? block_sum(sum, partial) / count : A{0};
  A squares{};
  for_packs<T, kHeld>(f.width, [&](int slot, int at, int n) {
    const Held<T> value = slot < kHeld ? held[slot] : load_held<kAligned>(in + at, n);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const A centred = e < n ? value[e] - mean : A{0};
      squares += centred * centred;
    }
  });
  squares = block_sum(squares, partial);
  const A inverse = A{1} / std::sqrt(squares / count + f.eps);
  if (threadIdx.x == 0) {
    f.stats[row][0] = mean;
    f.stats[row][1] = inverse;
  }
  T* const y = f.y[row];
  for_packs<T, kHeld>(f.width, [&](int slot, int at, int n) {
    const Held<T> value = slot < kHeld ? held[slot] : load_held<kAligned>(in + at, n);
    const Held<T> scale = slot < kHeld ? gamma[slot] : load_held<kAligned>(f.gamma + at, n);
    const Held<T> shift = f.beta != nullptr ? load_held<kAligned>(f.beta + at, n) : Held<T>{};
    A out[kPack];
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const A z = (value[e] - mean) * inverse;
      // Without beta: the product itself, which keeps a zero's sign.
      out[e] = f.beta != nullptr ? std::fma(z, scale[e], shift[e]) : z * scale[e];
    }
    store_held<kAligned>(y + at, round_held<T>(out), n);
  });
}

// With z = (r - mean) / std and h = dy * gamma:
//   dr += (h - mean(h) - z mean(h z)) / std   (RMSNorm: without mean(h))
//   dgamma += sum over rows of dy z,  dbeta += sum over rows of dy.
// A block takes group_rows rows one after the other and leaves its sums in one row of `partial`:
// [pitch] of dgamma, then [pitch] of dbeta if there is one; pitch is width in whole packs.
template <class T>
struct Backward {
  Rows<T> dr;
  Rows<T> dy, r;
  Rows<acc_t<T>> stats;
  const T* gamma;
  acc_t<T>* partial;
  std::int64_t rows, group_rows, partial_stride;
  int width, pitch;
  bool has_beta;
};

// Whole 16 bytes, at a multiple of them.
template <class A, int kCount>
__device__ __forceinline__ void store_sums(A* to, const A (&sums)[kCount]) {
  constexpr int kWhole = 16 / sizeof(A);
#pragma unroll
  for (int i = 0; i < kCount; i += kWhole) {
    Held<A> held;
#pragma unroll
    for (int e = 0; e < kWhole; ++e) held.at[e] = sums[i + e];
    store_held<true>(to + i, held, kWhole);
  }
}

template <class T, bool kCentred, bool kAligned, int kHeld>
__global__ void __launch_bounds__(kBackwardThreads) norm_backward_rows(Backward<T> b) {
  using A = acc_t<T>;
  constexpr int kPack = Pack<T>::kSize;
  constexpr bool kEarly = kHeld == 2;  // registers are left for dr and gamma
  __shared__ A partial[2][kWarp];
  __shared__ A warps_sums[2][kHeld * kPack * kWarp];  // of the rows of a block, each of one warp
  const std::int64_t begin = blockIdx.x * b.group_rows;
  const std::int64_t end = begin + b.group_rows < b.rows ? begin + b.group_rows : b.rows;
  A* const own = b.partial + blockIdx.x * b.partial_stride;

  A dgamma[kHeld][kPack] = {}, dbeta[kHeld][kPack] = {};
  Held<T> gamma[kHeld] = {};
  for_packs<T, kHeld>(b.width, [&](int slot, int at, int n) {
    if (kEarly && slot < kHeld) gamma[slot] = load_held<kAligned>(b.gamma + at, n);
  });
  const A count = static_cast<A>(b.width);
  for (std::int64_t row = begin + threadIdx.y; row < end; row += blockDim.y) {
    const T *const in = b.r[row], *const dy = b.dy[row];
    T* const dr = b.dr[row];
    const A mean = b.stats[row][0], inverse = b.stats[row][1];
    Held<T> values[kHeld], grads[kHeld], olds[kHeld] = {};
    for_packs<T, kHeld>(b.width, [&](int slot, int at, int n) {
      if (slot == kHeld) return;
      values[slot] = load_held<kAligned>(in + at, n);
      grads[slot] = load_held<kAligned>(dy + at, n);
      if constexpr (kEarly) olds[slot] = load_held<kAligned>(dr + at, n);
    });
    A h_sum{}, hz_sum{};
    for_packs<T, kHeld>(b.width, [&](int slot, int at, int n) {
      const Held<T> value = slot < kHeld ? values[slot] : load_held<kAligned>(in + at, n);
      const Held<T> grad = slot < kHeld ? grads[slot] : load_held<kAligned>(dy + at, n);
      const Held<T> scale =
          kEarly && slot < kHeld ? gamma[slot] : load_held<kAligned>(b.gamma + at, n);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {  // behind the row's end dy is 0, and with it each term
        const A d = grad[e];
        const A z = (value[e] - mean) * inverse;
        const A h = d * scale[e];
        if constexpr (kCentred) h_sum += h;
        hz_sum = std::fma(h, z, hz_sum);
        if (slot < kHeld) {
          dgamma[slot][e] = std::fma(d, z, dgamma[slot][e]);
          if constexpr (kCentred) dbeta[slot][e] += d;
        } else if (e < n) {
          // Too wide for registers: this thread's own memory, of one row at a time.
          A& to_gamma = own[at + e];
          to_gamma = std::fma(d, z, row == begin ? A{0} : to_gamma);
          if (b.has_beta) {
            A& to_beta = own[b.pitch + at + e];
            to_beta = (row == begin ? A{0} : to_beta) + d;
          }
        }
      }
    });
    row_sums(h_sum, hz_sum, partial);
    const A h_mean = kCentred ? h_sum / count : A{0};
    const A hz_mean = hz_sum / count;
    for_packs<T, kHeld>(b.width, [&](int slot, int at, int n) {
      const Held<T> value = slot < kHeld ? values[slot] : load_held<kAligned>(in + at, n);
      const Held<T> grad = slot < kHeld ? grads[slot] : load_held<kAligned>(dy + at, n);
      const Held<T> scale =
          kEarly && slot < kHeld ? gamma[slot] : load_held<kAligned>(b.gamma + at, n);
      const Held<T> old = kEarly && slot < kHeld ? olds[slot] : load_held<kAligned>(dr + at, n);
      A out[kPack];
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const A z = (value[e] - mean) * inverse;
        const A h = grad[e] * scale[e];
        out[e] = std::fma(std::fma(-z, hz_mean, h - h_mean), inverse, old[e]);
      }
      store_held<kAligned>(dr + at, round_held<T>(out), n);
    });
  }

  // The warps of a block add in their order; the last one has the sums of all.
  for (unsigned warp = 0; warp < blockDim.y; ++warp) {
    const bool last = warp + 1 == blockDim.y;
    if (threadIdx.y == warp) {
      for_packs<T, kHeld>(b.width, [&](int slot, int at, int /*n*/) {
        if (slot == kHeld) return;
#pragma unroll
        for (int e = 0; e < kPack && warp > 0; ++e) {
          dgamma[slot][e] += warps_sums[0][at + e];
          dbeta[slot][e] += warps_sums[1][at + e];
        }
#pragma unroll
        for (int e = 0; e < kPack && !last; ++e) {
          warps_sums[0][at + e] = dgamma[slot][e];
          warps_sums[1][at + e] = dbeta[slot][e];
        }
        if (last) {
          store_sums(own + at, dgamma[slot]);
          if (b.has_beta) store_sums(own + b.pitch + at, dbeta[slot]);
        }
      });
    }
    if (!last) __syncthreads();
  }
}

void check_rows(const TensorView& a, const TensorView& b) {
  check_matrices({a, b});
}

void check_width(const TensorView& vector, const TensorView& matrix, DType type) {
  PG_ASSERT(vector.rank() == 1 && vector.dim(0) == matrix.dim(1) && vector.dtype() == type,
            "{} for {}", vector.text(), matrix.text());
  require_cuda(vector);
}

void check_stats(const TensorView& stats, const TensorView& matrix) {
  PG_ASSERT(stats.rank() == 2 && stats.dim(0) == matrix.dim(0) && stats.dim(1) == 2,
            "stats {} for {}", stats.text(), matrix.text());
  require_cuda(stats);
  PG_ASSERT(matrix.dim(1) < (1 << 30), "{} is too wide", matrix.text());
}

bool all_aligned(std::initializer_list<TensorView> all) {
  return std::all_of(all.begin(), all.end(),
                     [](const TensorView& x) { return strides_aligned(x); });
}

}  // namespace

void CudaKernels::norm_forward(NormKind kind, TensorView y, TensorView r, TensorView stats,
                               TensorView residual, TensorView x, TensorView gamma, TensorView beta,
                               double eps) {
  check_rows(y, residual);
  if (!x.empty()) {
    check_rows(x, residual);
    check_rows(r, residual);
  }
  check_stats(stats, y);
  check_width(gamma, y, y.dtype());
  if (!beta.empty()) check_width(beta, y, y.dtype());
  const bool centred = kind == NormKind::kLayerNorm;
  PG_ASSERT(centred || beta.empty(), "RMSNorm has no beta {}", beta.text());
  if (y.elements() == 0) return;
  const std::int64_t rows = y.dim(0), width = y.dim(1);
  // An absent view is aligned: its address is null.
  const bool aligned = all_aligned({y, residual, x, x.empty() ? TensorView() : r, gamma, beta});
  dispatch(y.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const Forward<T> forward{Rows<T>(y),
                             Rows<T>(x.empty() ? TensorView() : r),
                             Rows<T>(residual),
                             Rows<T>(x),
                             Rows<A>(stats),
                             gamma.data<T>(),
                             beta.empty() ? nullptr : beta.data<T>(),
                             rows,
                             static_cast<int>(width),
                             static_cast<A>(eps)};
    const int threads = row_threads(ceil_div(width, Pack<T>::kSize), kForwardHeld, 1024);
    const auto kernel =
        centred
            ? (aligned ? norm_forward_rows<T, true, true> : norm_forward_rows<T, true, false>)
            : (aligned ? norm_forward_rows<T, false, true> : norm_forward_rows<T, false, false>);
    launch("norm_forward", kernel, dim3(blocks_of(ceil_div(rows, block_rows(threads)))),
           dim3(static_cast<unsigned>(threads), static_cast<unsigned>(block_rows(threads))), 0,
           stream_, forward);
  });
}

void CudaKernels::norm_backward(NormKind kind, TensorView dr, TensorView dgamma, TensorView dbeta,
                                TensorView dy, TensorView r, TensorView stats, TensorView gamma) {
  check_rows(dr, dy);
  check_rows(dr, r);
  check_stats(stats, r);
  const DType accumulator = accumulator_of(r.dtype());
  check_width(gamma, r, r.dtype());
  check_width(dgamma, r, accumulator);
  if (!dbeta.empty()) check_width(dbeta, r, accumulator);
  const bool centred = kind == NormKind::kLayerNorm;
  PG_ASSERT(centred || dbeta.empty(), "RMSNorm has no beta {}", dbeta.text());
  if (r.elements() == 0) return;
  const std::int64_t rows = r.dim(0), width = r.dim(1);
  const bool aligned = all_aligned({dr, dy, r, gamma});
  dispatch(r.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const std::int64_t packs = ceil_div(width, Pack<T>::kSize);
    const bool wide = packs > 2 * kBackwardThreads;
    const int threads = row_threads(packs, 2, kBackwardThreads);
    // Groups enough that a Hopper's 132 multiprocessors have their fill of bytes on the way, but no
    // more partial sums than a few percent of the rows' own bytes.
    const std::int64_t most_groups = 132 * std::clamp(1024 / threads, 2, 8);
    const std::int64_t group_rows = std::max<std::int64_t>(8, ceil_div(rows, most_groups));
    const std::int64_t groups = ceil_div(rows, group_rows);
    const std::int64_t pitch = packs * Pack<T>::kSize;
    const std::int64_t partial_stride = dbeta.empty() ? pitch : 2 * pitch;
    auto* const partial = static_cast<A*>(
        workspace_.take(static_cast<std::size_t>(groups * partial_stride) * sizeof(A)));
    const Backward<T> backward{Rows<T>(dr),
                               Rows<T>(dy),
                               Rows<T>(r),
                               Rows<A>(stats),
                               gamma.data<T>(),
                               partial,
                               rows,
                               group_rows,
                               partial_stride,
                               static_cast<int>(width),
                               static_cast<int>(pitch),
                               !dbeta.empty()};
    const auto run = [&]<bool kCentred, bool kAligned>() {
      const auto kernel = wide ? norm_backward_rows<T, kCentred, kAligned, 4>
                               : norm_backward_rows<T, kCentred, kAligned, 2>;
      launch("norm_backward", kernel, dim3(blocks_of(groups)),
             dim3(static_cast<unsigned>(threads), static_cast<unsigned>(block_rows(threads))), 0,
             stream_, backward);
    };
    if (centred) {
      aligned ? run.template operator()<true, true>() : run.template operator()<true, false>();
    } else {
      aligned ? run.template operator()<false, true>() : run.template operator()<false, false>();
    }
    run_column_sums<A>("norm_backward sums", stream_,
                       {{partial, partial + pitch},
                        {dgamma.data<A>(), dbeta.empty() ? nullptr : dbeta.data<A>()},
                        groups,
                        width,
                        partial_stride});
  });
}

}  // namespace pg::model
