// Cross-entropy over a vocabulary split between ranks (Shoeybi et al. 2019, section 3). What ranks
// exchange is three numbers a row, in fp64 and merged by every rank in the order of ranks, so all
// of them hold the same bits. Exponentials are made again for the gradient: keeping them would take
// a second matrix as large as the logits.
#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/cross_entropy_row.h"

namespace pg::model {

namespace {

const std::int32_t* target_ids(const TensorView& targets, std::int64_t n) {
  PG_ASSERT(targets.elements() == n && targets.contiguous(), "targets {} for {} rows",
            targets.text(), n);
  return targets.data<std::int32_t>();
}

// x's fp64 elements: contiguous and of `shape`, which follows from `other`.
double* table(const TensorView& x, std::initializer_list<std::int64_t> shape,
              const TensorView& other) {
  bool fits = x.rank() == static_cast<int>(shape.size()) && x.contiguous();
  int axis = 0;
  for (const std::int64_t extent : shape) fits = fits && x.dim(axis++) == extent;
  PG_ASSERT(fits, "{} for {}", x.text(), other.text());
  return x.data<double>();
}

void check_logits(const TensorView& logits, std::int64_t first_id) {
  PG_ASSERT(logits.rank() == 2 && logits.dim(1) > 0 && first_id >= 0, "logits {} from id {}",
            logits.text(), first_id);
  PG_ASSERT(logits.dtype() == accumulator_of(logits.dtype()), "logits {}", logits.text());
}

// The target's column here, -1 if another rank has it (or the row is ignored).
std::int64_t local_column(std::int32_t target, std::int64_t first_id, std::int64_t width) {
  return target >= first_id && target < first_id + width ? target - first_id : -1;
}

}  // namespace

void CpuKernels::cross_entropy_stats(TensorView stats, TensorView logits, TensorView targets,
                                     std::int64_t first_id) {
  check_logits(logits, first_id);
  double* const out = table(stats, {logits.dim(0), 3}, logits);
  const std::int32_t* const target = target_ids(targets, logits.dim(0));
  cpu::dispatch(logits.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const cpu::Rows<A> in(logits);
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      const A* const x = in[n];
      const auto lse = cpu::log_sum_exp<A>(x, nullptr, nullptr, in.width);
      const std::int64_t at = local_column(target[n], first_id, in.width);
      out[3 * n] = lse.top;
      out[3 * n + 1] = lse.sum;
      out[3 * n + 2] = at < 0 ? 0.0 : static_cast<double>(x[at]);
    });
  });
}

void CpuKernels::cross_entropy_combine(TensorView losses, TensorView merged, TensorView all_stats,
                                       TensorView targets) {
  PG_ASSERT(all_stats.rank() == 3 && all_stats.dim(0) > 0, "stats {}", all_stats.text());
  const std::int64_t ranks = all_stats.dim(0), rows = all_stats.dim(1);
  const double* const stats = table(all_stats, {ranks, rows, 3}, losses);
  double* const out = table(merged, {rows, 2}, all_stats);
  PG_ASSERT(losses.elements() == rows && losses.contiguous(), "losses {} stats {}", losses.text(),
            all_stats.text());
  double* const loss = losses.data<double>();
  const std::int32_t* const target = target_ids(targets, rows);
  cpu::for_rows(rows, 3 * ranks, [&](std::int64_t n) {
    double top = -std::numeric_limits<double>::infinity();
    for (std::int64_t r = 0; r < ranks; ++r) top = std::max(top, stats[3 * (r * rows + n)]);
    const double shift = cpu::shift_below(top);
    double sum = 0.0, at_target = 0.0;
    for (std::int64_t r = 0; r < ranks; ++r) {
      const double* const part = stats + 3 * (r * rows + n);
      // A part of -inf alone: exp(-inf) is 0, and a NaN in its sum stays one.
      sum += part[1] * std::exp(part[0] - shift);
      at_target += part[2];  // all but one are 0: exact
    }
    out[2 * n] = top;
    out[2 * n + 1] = sum;
    loss[n] = target[n] < 0 ? 0.0 : std::log(sum) + shift - at_target;
  });
}

void CpuKernels::cross_entropy_gradient(TensorView dlogits, TensorView logits, TensorView merged,
                                        TensorView targets, std::int64_t first_id, double scale) {
  check_logits(logits, first_id);
  PG_ASSERT(cpu::same_shape(dlogits, logits), "dlogits {} logits {}", dlogits.text(),
            logits.text());
  const double* const whole = table(merged, {logits.dim(0), 2}, logits);
  const std::int32_t* const target = target_ids(targets, logits.dim(0));
  const auto run = [&]<class A, class D>() {
    const cpu::Rows<A> in(logits);
    const cpu::Rows<D> out(dlogits);
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      D* const gradient = out[n];
      if (target[n] < 0) {
        std::fill_n(gradient, in.width, D{});
        return;
      }
      const A* const x = in[n];
      const double shift = cpu::shift_below(whole[2 * n]), sum = whole[2 * n + 1];
      const std::int64_t at = local_column(target[n], first_id, in.width);
      const double at_target = at < 0 ? 0.0 : static_cast<double>(x[at]);  // may be overwritten
      const A below = static_cast<A>(shift), factor = static_cast<A>(scale / sum);
#pragma omp simd
      for (std::int64_t i = 0; i < in.width; ++i) {
        cpu::convert(gradient[i], cpu::simd_exp(x[i] - below) * factor);
      }
      if (at >= 0) cpu::convert(gradient[at], scale * (std::exp(at_target - shift) / sum - 1.0));
    });
  };
  cpu::dispatch(dlogits.dtype(), [&]<class D>() {
    if (logits.dtype() == DType::kF64) {
      run.template operator()<double, D>();
    } else {
      run.template operator()<float, D>();
    }
  });
}

}  // namespace pg::model
