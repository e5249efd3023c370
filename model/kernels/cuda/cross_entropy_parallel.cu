// Cross-entropy over a vocabulary split between ranks (Shoeybi et al. 2019, section 3). What ranks
// exchange is three numbers a row, in fp64 and merged by every rank in the order of ranks, so all
// of them hold the same bits. Exponentials are made again for the gradient: keeping them would take
// a second matrix as large as the logits.
#include <initializer_list>

#include "model/kernels/cuda/cross_entropy_row.cuh"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;

// The target's column here, -1 if another rank has it (or the row is ignored).
__device__ std::int64_t local_column(std::int32_t target, std::int64_t first_id,
                                     std::int64_t width) {
  return target >= first_id && target < first_id + width ? target - first_id : -1;
}

template <class A>
__global__ void __launch_bounds__(most_row_threads<A>())
    stats_of_rows(double* stats, Rows<A> logits, const std::int32_t* targets, std::int64_t first_id,
                  std::int64_t width, bool packed) {
  const std::int64_t n = blockIdx.x;
  const A* const x = logits[n];
  const LogSumExp row = log_sum_exp(x, width, packed);
  if (threadIdx.x != 0) return;
  const std::int64_t at = local_column(targets[n], first_id, width);
  stats[3 * n] = row.top;
  stats[3 * n + 1] = row.sum;
  stats[3 * n + 2] = at < 0 ? 0.0 : static_cast<double>(x[at]);
}

__global__ void __launch_bounds__(kThreads)
    combine_ranks(double* losses, double* merged, const double* stats, const std::int32_t* targets,
                  std::int64_t ranks, std::int64_t rows) {
  const std::int64_t n = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (n >= rows) return;
  double top = -INFINITY;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const double other = stats[3 * (r * rows + n)];
    top = other > top ? other : top;
  }
  const double shift = shift_below(top);
  double sum = 0.0, at_target = 0.0;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const double* const part = stats + 3 * (r * rows + n);
    // A part of -inf alone: exp(-inf) is 0, and a NaN in its sum stays one.
    sum += part[1] * exp(part[0] - shift);
    at_target += part[2];  // all but one are 0: exact
  }
  merged[2 * n] = top;
  merged[2 * n + 1] = sum;
  losses[n] = targets[n] < 0 ? 0.0 : log(sum) + shift - at_target;
}

template <class A, class D>
__global__ void __launch_bounds__(most_row_threads<A>())
    gradient_of_rows(Rows<D> dlogits, Rows<A> logits, const double* merged,
                     const std::int32_t* targets, std::int64_t first_id, std::int64_t width,
                     double scale, bool packed) {
  const std::int64_t n = blockIdx.x;
  const std::int32_t target = targets[n];
  if (target < 0) {
    write_zeros(dlogits[n], width, packed);
    return;
  }
  const A* const x = logits[n];
  const double shift = shift_below(merged[2 * n]), sum = merged[2 * n + 1];
  const std::int64_t at = local_column(target, first_id, width);
  const double at_target = at < 0 ? 0.0 : static_cast<double>(x[at]);
  __syncthreads();  // all have read it; it may be overwritten now
  const double own = scale * (exp(at_target - shift) / sum - 1.0);
  write_gradient(dlogits[n], x, width, static_cast<A>(shift), static_cast<A>(scale / sum),
                 Target<D>{at, convert<D>(own)}, packed);
}

const std::int32_t* target_ids(const TensorView& targets, std::int64_t n) {
  require_cuda(targets);
  PG_ASSERT(targets.elements() == n && targets.contiguous(), "targets {} for {} rows",
            targets.text(), n);
  return targets.data<std::int32_t>();
}

// x's fp64 elements: contiguous and of `shape`, which follows from `other`.
double* table(const TensorView& x, std::initializer_list<std::int64_t> shape,
              const TensorView& other) {
  require_cuda(x);
  bool fits = x.rank() == static_cast<int>(shape.size()) && x.contiguous();
  int axis = 0;
  for (const std::int64_t extent : shape) fits = fits && x.dim(axis++) == extent;
  PG_ASSERT(fits, "{} for {}", x.text(), other.text());
  return x.data<double>();
}

void check_logits(const TensorView& logits, std::int64_t first_id) {
  require_cuda(logits);
  PG_ASSERT(logits.rank() == 2 && logits.dim(1) > 0 && first_id >= 0, "logits {} from id {}",
            logits.text(), first_id);
  PG_ASSERT(logits.dtype() == accumulator_of(logits.dtype()), "logits {}", logits.text());
}

}  // namespace

void CudaKernels::cross_entropy_stats(TensorView stats, TensorView logits, TensorView targets,
                                      std::int64_t first_id) {
  check_logits(logits, first_id);
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  double* const out = table(stats, {rows, 3}, logits);
  const std::int32_t* const target = target_ids(targets, rows);
  if (rows == 0) return;
  const auto run = [&]<class A>() {
    launch("cross_entropy_stats", stats_of_rows<A>, dim3(blocks_of(rows)),
           dim3(row_threads<A>(width)), 0, stream_, out, Rows<A>(logits), target, first_id, width,
           rows_aligned(logits));
  };
  logits.dtype() == DType::kF64 ? run.template operator()<double>()
                                : run.template operator()<float>();
}

void CudaKernels::cross_entropy_combine(TensorView losses, TensorView merged, TensorView all_stats,
                                        TensorView targets) {
  PG_ASSERT(all_stats.rank() == 3 && all_stats.dim(0) > 0, "stats {}", all_stats.text());
  require_cuda(losses);
  const std::int64_t ranks = all_stats.dim(0), rows = all_stats.dim(1);
  const double* const stats = table(all_stats, {ranks, rows, 3}, losses);
  double* const out = table(merged, {rows, 2}, all_stats);
  PG_ASSERT(losses.elements() == rows && losses.contiguous(), "losses {} stats {}", losses.text(),
            all_stats.text());
  const std::int32_t* const target = target_ids(targets, rows);
  if (rows == 0) return;
  launch("cross_entropy_combine", combine_ranks, dim3(blocks_of(ceil_div(rows, kThreads))),
         dim3(kThreads), 0, stream_, losses.data<double>(), out, stats, target, ranks, rows);
}

void CudaKernels::cross_entropy_gradient(TensorView dlogits, TensorView logits, TensorView merged,
                                         TensorView targets, std::int64_t first_id, double scale) {
  check_logits(logits, first_id);
  require_cuda(dlogits);
  PG_ASSERT(same_matrix(dlogits, logits), "dlogits {} logits {}", dlogits.text(), logits.text());
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  const double* const whole = table(merged, {rows, 2}, logits);
  const std::int32_t* const target = target_ids(targets, rows);
  if (rows == 0) return;
  const bool packed = rows_aligned(logits) && rows_aligned(dlogits);
  const auto run = [&]<class A, class D>() {
    launch("cross_entropy_gradient", gradient_of_rows<A, D>, dim3(blocks_of(rows)),
           dim3(row_threads<A>(width)), 0, stream_, Rows<D>(dlogits), Rows<A>(logits), whole,
           target, first_id, width, scale, packed);
  };
  dispatch(dlogits.dtype(), [&]<class D>() {
    if (logits.dtype() == DType::kF64) {
      run.template operator()<double, D>();
    } else {
      run.template operator()<float, D>();
    }
  });
}

}  // namespace pg::model
