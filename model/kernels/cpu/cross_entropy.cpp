// Softmax cross-entropy and its gradient. A row is read from memory once for the log-sum-exp (in
// blocks that stay in the nearest cache: maximum first, then the sum below it, rescaled when the
// maximum grows), and once more, by then from the next cache, for the gradient.
//
// A NaN never raises the maximum but always enters the sum, so a row that holds one has a NaN loss
// and a NaN gradient; so has a row with +inf. Single logits of -inf are fine.
#include <cmath>
#include <limits>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"
#include "model/kernels/cpu/simd_math.h"

namespace pg::model {

namespace {

// log(sum of exp(x)) = shift + log(sum).
struct LogSumExp {
  double shift, sum;
};

template <class A>
LogSumExp log_sum_exp(const A* x, std::int64_t n) {
  constexpr std::int64_t kBlock = 2048;  // 64 additions a lane: 64 roundings at most before fp64
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  A top = kLowest, shift = 0;
  double sum = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const A* const block = x + begin;
    const std::int64_t size = std::min(kBlock, n - begin);
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
    sum += static_cast<double>(
        cpu::lane_sum<A>(size, [&](std::int64_t i) { return cpu::simd_exp(block[i] - shift); }));
  }
  return {static_cast<double>(shift), sum};
}

template <class A, class D>
double loss_of_row(const A* x, D* gradient, std::int64_t n, std::int32_t target, double scale) {
  if (target < 0) {
    if (gradient != nullptr) std::fill_n(gradient, n, D{});
    return 0.0;
  }
  const auto [shift, sum] = log_sum_exp(x, n);
  const double at_target = static_cast<double>(x[target]);  // before the gradient overwrites it
  if (gradient != nullptr) {
    const A below = static_cast<A>(shift), factor = static_cast<A>(scale / sum);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      cpu::convert(gradient[i], cpu::simd_exp(x[i] - below) * factor);
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
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      loss[n] =
          loss_of_row(in[n], out.base == nullptr ? nullptr : out[n], in.width, target[n], scale);
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
