// AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW computes it, in one pass over memory and
// one launch for many parameters:
//   w *= 1 - lr wd;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
//   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
// The factors are computed in double once, on the host; the elements in the accumulator type.
#include <cmath>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256, kUnroll = 2;
// Parameters of one launch: within the 4 KiB that every driver takes.
constexpr int kTensors = 56;
template <class W>
constexpr int kTile = kThreads* kUnroll* Pack<acc_t<W>>::kSize;  // elements of a block

template <class A>
struct Factors {
  A grad_scale, beta1, rest1, beta2, rest2, rate, inverse_root2, eps;

  explicit Factors(const AdamWStep& s)
      : grad_scale(static_cast<A>(s.grad_scale)),
        beta1(static_cast<A>(s.beta1)),
        rest1(static_cast<A>(1.0 - s.beta1)),
        beta2(static_cast<A>(s.beta2)),
        rest2(static_cast<A>(1.0 - s.beta2)),
        rate(static_cast<A>(s.lr / (1.0 - std::pow(s.beta1, static_cast<double>(s.step))))),
        inverse_root2(
            static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))))),
        eps(static_cast<A>(s.eps)) {}
};

template <class W>
struct Tensor {
  W* weight;  // as stored; null when that is `master`
  acc_t<W>*master, *m, *v;
  const acc_t<W>* grad;
  std::int64_t elements;
  acc_t<W> keep;  // 1 - lr * weight decay
  bool aligned;
};
template <class W>
struct Tensors {
  Tensor<W> at[kTensors];
  unsigned first_tile[kTensors + 1];  // ascending; the last is the number of blocks
  int count = 0;
};
static_assert(sizeof(Tensors<double>) + sizeof(Factors<double>) <= 4096);
static_assert(sizeof(Tensors<bf16>) + sizeof(Factors<float>) <= 4096);

// W's elements of one pack of A: 8 bytes of bf16 for 16 of float.
template <class W>
struct alignas(sizeof(W) * Pack<acc_t<W>>::kSize) Rounded {
  W at[Pack<acc_t<W>>::kSize];
};

template <class W>
__device__ __forceinline__ void store_weights(W* to, const acc_t<W> (&w)[Pack<acc_t<W>>::kSize],
                                              bool whole, int n) {
  if constexpr (std::is_same_v<W, bf16>) {
    if (whole) {
      *reinterpret_cast<uint2*>(to) =
          make_uint2(round_bf16_pair(w[0], w[1]), round_bf16_pair(w[2], w[3]));
      return;
    }
#pragma unroll
    for (int e = 0; e < Pack<acc_t<W>>::kSize; ++e) {
      if (e < n) to[e] = store<W>(w[e]);
    }
  }
}

template <class W, bool kAligned>
__device__ __forceinline__ void update_tile(const Tensor<W>& t, const Factors<acc_t<W>>& f,
                                            std::int64_t begin) {
  using A = acc_t<W>;
  constexpr int kPack = Pack<A>::kSize;
  Held<A> grad[kUnroll], first[kUnroll], second[kUnroll], weight[kUnroll];
  std::int64_t at[kUnroll];
  int n[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    at[u] = begin + (u * kThreads + static_cast<int>(threadIdx.x)) * kPack;
    n[u] = static_cast<int>(t.elements - at[u] < kPack ? t.elements - at[u] : kPack);
    if (n[u] <= 0) break;
    grad[u] = load_held<kAligned>(t.grad + at[u], n[u]);
    first[u] = load_held<kAligned>(t.m + at[u], n[u]);
    second[u] = load_held<kAligned>(t.v + at[u], n[u]);
    weight[u] = load_held<kAligned>(t.master + at[u], n[u]);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (n[u] <= 0) break;
    A exact[kPack];
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      // Which of two products is rounded is said here, not left to the compiler: every path has
      // the same bits.
      const A g = grad[u][e] * f.grad_scale;
      const A m = std::fma(f.beta1, first[u][e], f.rest1 * g);
      const A v = std::fma(f.beta2, second[u][e], f.rest2 * (g * g));
      const A step = m / std::fma(std::sqrt(v), f.inverse_root2, f.eps);
      const A w = std::fma(weight[u][e], t.keep, -(f.rate * step));
      first[u].at[e] = m;
      second[u].at[e] = v;
      weight[u].at[e] = w;
      exact[e] = w;
    }
    store_held<kAligned>(t.m + at[u], first[u], n[u]);
    store_held<kAligned>(t.v + at[u], second[u], n[u]);
    store_held<kAligned>(t.master + at[u], weight[u], n[u]);
    if (t.weight != nullptr) {
      store_weights<W>(t.weight + at[u], exact, kAligned && n[u] == kPack, n[u]);
    }
  }
}

template <class W>
__global__ void __launch_bounds__(kThreads)
    adamw_tiles(const __grid_constant__ Tensors<W> tensors, Factors<acc_t<W>> factors) {
  int tensor = 0, behind = tensors.count;  // the last that begins at this block or before
  while (behind - tensor > 1) {
    const int middle = (tensor + behind) / 2;
    (tensors.first_tile[middle] <= blockIdx.x ? tensor : behind) = middle;
  }
  const Tensor<W>& t = tensors.at[tensor];
  const std::int64_t begin = std::int64_t{blockIdx.x - tensors.first_tile[tensor]} * kTile<W>;
  if (t.aligned) {
    update_tile<W, true>(t, factors, begin);
  } else {
    update_tile<W, false>(t, factors, begin);
  }
}

template <class W>
Tensor<W> checked(const AdamWTensors& t, const AdamWStep& step) {
  using A = acc_t<W>;
  const std::int64_t n = t.weight.elements();
  const DType type = accumulator_of(t.weight.dtype());
  PG_ASSERT(
      t.weight.contiguous() && step.step >= 1 && t.master.empty() == (t.weight.dtype() == type),
      "weight {} master {} step {}", t.weight.text(), t.master.text(), step.step);
  const TensorView exact = t.master.empty() ? t.weight : t.master;
  require_cuda(t.weight);
  bool aligned = reinterpret_cast<std::uintptr_t>(t.weight.raw()) % alignof(Rounded<W>) == 0;
  for (const TensorView& x : {t.m, t.v, t.grad, exact}) {
    PG_ASSERT(x.elements() == n && x.contiguous() && x.dtype() == type, "weight {} and {}",
              t.weight.text(), x.text());
    require_cuda(x);
    aligned = aligned && aligned16(x.raw());
  }
  return {t.master.empty() ? nullptr : t.weight.data<W>(),
          exact.data<A>(),
          t.m.data<A>(),
          t.v.data<A>(),
          t.grad.data<A>(),
          n,
          static_cast<A>(1.0 - step.lr * t.weight_decay),
          aligned};
}

}  // namespace

void CudaKernels::adamw(std::span<const AdamWTensors> tensors, const AdamWStep& step) {
  if (tensors.empty()) return;
  dispatch(tensors[0].weight.dtype(), [&]<class W>() {
    const Factors<acc_t<W>> factors(step);
    Tensors<W> held{};
    unsigned tiles = 0;
    const auto run = [&] {
      if (held.count == 0) return;
      launch("adamw", adamw_tiles<W>, dim3(blocks_of(tiles)), dim3(kThreads), 0, stream_, held,
             factors);
      held.count = 0;
      tiles = 0;
    };
    for (const AdamWTensors& t : tensors) {
      const Tensor<W> one = checked<W>(t, step);
      if (one.elements == 0) continue;
      held.at[held.count] = one;
      held.first_tile[held.count] = tiles;
      tiles += blocks_of(ceil_div(one.elements, kTile<W>));
      held.first_tile[++held.count] = tiles;
      if (held.count == kTensors) run();
    }
    run();
  });
}

}  // namespace pg::model
