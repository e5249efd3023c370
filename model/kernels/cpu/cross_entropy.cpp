// Softmax cross-entropy and its gradient in one go: the exponentials that the sum needs are kept,
// and a second pass turns them into the gradient with one factor a block, so each is computed once.
#include <omp.h>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/cross_entropy_row.h"

namespace pg::model {

namespace {

using cpu::blocks_of;
using cpu::kBlock;

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
  const auto [top, shift, sum] =
      cpu::log_sum_exp(x, gradient == nullptr ? nullptr : kept, shifts, n);
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
