// Softmax cross-entropy and its gradient. A row is read from memory once, in blocks that stay in
// the nearest cache: the maximum first, then exponentials below it, summed and, for the gradient,
// kept; when a later block raises the maximum, the sum is rescaled. A second pass turns the kept
// exponentials into the gradient with one factor a block, so each exponential is computed once.
//
// A NaN never raises the maximum but always enters the sum, so a row that holds one has a NaN loss
// and a NaN gradient; so has a row with +inf. Single logits of -inf are fine.
#include <omp.h>

#include <cmath>
#include <limits>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"
#include "model/kernels/cpu/simd_math.h"

namespace pg::model {

namespace {

constexpr std::int64_t kBlock = 2048;  // 64 additions a lane: 64 roundings at most before fp64

constexpr std::int64_t blocks_of(std::int64_t n) {
  return (n + kBlock - 1) / kBlock;
}

// log(sum of exp(x)) = shift + log(sum).
struct LogSumExp {
  double shift, sum;
};

// Unless `kept` is null: kept[i] = exp(x[i] - shifts[i / kBlock]). `kept` may be x.
template <class A>
LogSumExp log_sum_exp(const A* x, A* kept, A* shifts, std::int64_t n) {
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  A top = kLowest, shift = 0;
  double sum = 0.0;
  for (std::int64_t b = 0; b < blocks_of(n); ++b) {
    const A* const block = x + b * kBlock;
    const std::int64_t size = std::min(kBlock, n - b * kBlock);
    cpu::Lanes<A> highest;
    std::fill_n(highest.at, highest.kCount, kLowest);
    cpu::for_lanes<A>(size, [&](std::int64_t i, int lane) {
      highest.at[lane] = block[i] > highest.at[lane] ? block[i] : highest.at[lane];
    });
    const A block_top = *std::max_element(highest.at, highest.at + highest.kCount);
    if (block_top > top) {
      sum *= std::exp(static_cast<double>(top) - static_cast<double>(block_top));
      top = shift = block_top;
    }
    // While all logits are -inf the shift stays 0: -inf - (-inf) would be NaN.
    const A below = shift;
    if (kept == nullptr) {
      sum += static_cast<double>(
          cpu::lane_sum<A>(size, [=](std::int64_t i) { return cpu::simd_exp(block[i] - below); }));
    } else {
      A* const out = kept + b * kBlock;
      shifts[b] = below;
      sum += static_cast<double>(cpu::lane_sum<A>(
          size, [=](std::int64_t i) { return out[i] = cpu::simd_exp(block[i] - below); }));
    }
  }
  return {static_cast<double>(shift), sum};
}

// `kept` [n] and `shifts` [blocks_of(n)] are scratch, unused without a gradient; `kept` may be the
// gradient, and the gradient may be x.
template <class A, class D>
double loss_of_row(const A* x, D* gradient, A* kept, A* shifts, std::int64_t n, std::int32_t target,
                   double scale) {
  if (target < 0) {
    if (gradient != nullptr) std::fill_n(gradient, n, D{});
    return 0.0;
  }
  const double at_target = static_cast<double>(x[target]);  // before the gradient overwrites it
  const auto [shift, sum] = log_sum_exp(x, gradient == nullptr ? nullptr : kept, shifts, n);
  if (gradient != nullptr) {
    for (std::int64_t b = 0; b < blocks_of(n); ++b) {
      const auto factor =
          static_cast<A>(std::exp(static_cast<double>(shifts[b]) - shift) * (scale / sum));
#pragma omp simd
      for (std::int64_t i = b * kBlock; i < std::min(n, (b + 1) * kBlock); ++i) {
        cpu::convert(gradient[i], kept[i] * factor);
      }
    }
    cpu::convert(gradient[target], scale * (std::exp(at_target - shift) / sum - 1.0));
  }
  return std::log(sum) + shift - at_target;
}

}  // namespace

void CpuKernels::cross_entropy(TensorView losses, TensorView dlogits, TensorView logits,
                               TensorView targets, double scale) {
  PG_ASSERT(logits.rank() == 2 && losses.elements() == logits.dim(0) && losses.contiguous() &&
                targets.elements() == logits.dim(0) && targets.contiguous(),
            "losses {} logits {} targets {}", losses.text(), logits.text(), targets.text());
  PG_ASSERT(dlogits.empty() || cpu::same_shape(dlogits, logits), "dlogits {} logits {}",
            dlogits.text(), logits.text());
  PG_ASSERT(logits.dtype() == accumulator_of(logits.dtype()), "logits {}", logits.text());
  auto* const loss = losses.data<double>();
  const auto* const target = targets.data<std::int32_t>();
  const auto run = [&]<class A, class D>() {
    const cpu::Rows<A> in(logits);
    const cpu::Rows<D> out(dlogits);
    // A row of exponentials for each thread, unless the gradient's own row can hold them.
    const bool keeps_apart = out.base != nullptr && !std::is_same_v<A, D>;
    const std::int64_t blocks = blocks_of(in.width), held = keeps_apart ? in.width : 0;
    const auto scratch =
        std::make_unique_for_overwrite<A[]>(omp_get_max_threads() * (held + blocks));
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      A* const shifts = scratch.get() + omp_get_thread_num() * (held + blocks);
      A* kept = shifts + blocks;
      D* const gradient = out.base == nullptr ? nullptr : out[n];
      if constexpr (std::is_same_v<A, D>) kept = gradient;
      loss[n] = loss_of_row(in[n], gradient, kept, shifts, in.width, target[n], scale);
    });
  };
  cpu::dispatch(dlogits.empty() ? logits.dtype() : dlogits.dtype(), [&]<class D>() {
    if (logits.dtype() == DType::kF64) {
      run.template operator()<double, D>();
    } else {
      run.template operator()<float, D>();
    }
  });
}

}  // namespace pg::model
