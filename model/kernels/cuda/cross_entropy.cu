// Softmax cross-entropy and its gradient in one kernel, one block a row: the row is read once for
// maximum and sum together, and once more for the gradient.
#include "model/kernels/cuda/cross_entropy_row.cuh"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

struct Alignment {
  bool logits, both;  // of the rows: to 16 bytes
};

template <class A, class D>
__global__ void __launch_bounds__(most_row_threads<A>())
    loss_of_rows(double* losses, Rows<D> dlogits, Rows<A> logits, const std::int32_t* targets,
                 std::int64_t width, double scale, Alignment aligned) {
  const std::int64_t n = blockIdx.x;
  const A* const x = logits[n];
  D* const gradient = dlogits.base == nullptr ? nullptr : dlogits[n];
  const std::int32_t target = targets[n];
  if (target < 0) {
    if (threadIdx.x == 0) losses[n] = 0.0;
    if (gradient != nullptr) write_zeros(gradient, width, aligned.both);
    return;
  }
  // Before the gradient overwrites it: the sum's barriers lie between.
  const auto at_target = static_cast<double>(x[target]);
  const LogSumExp row = log_sum_exp(x, width, aligned.logits);
  const double shift = shift_below(row.top);
  if (threadIdx.x == 0) losses[n] = log(row.sum) + shift - at_target;
  if (gradient == nullptr) return;
  const double own = scale * (exp(at_target - shift) / row.sum - 1.0);
  write_gradient(gradient, x, width, static_cast<A>(shift), static_cast<A>(scale / row.sum),
                 Target<D>{target, convert<D>(own)}, aligned.both);
}

}  // namespace

void CudaKernels::cross_entropy(TensorView losses, TensorView dlogits, TensorView logits,
                                TensorView targets, double scale) {
  for (const auto& x : {losses, dlogits, logits, targets}) require_cuda(x);
  PG_ASSERT(logits.rank() == 2 && losses.elements() == logits.dim(0) && losses.contiguous() &&
                targets.elements() == logits.dim(0) && targets.contiguous(),
            "losses {} logits {} targets {}", losses.text(), logits.text(), targets.text());
  PG_ASSERT(dlogits.empty() || same_matrix(dlogits, logits), "dlogits {} logits {}", dlogits.text(),
            logits.text());
  PG_ASSERT(logits.dtype() == accumulator_of(logits.dtype()), "logits {}", logits.text());
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  if (rows == 0) return;
  const bool in = rows_aligned(logits);
  const Alignment aligned{in, in && rows_aligned(dlogits)};
  const auto run = [&]<class A, class D>() {
    launch("cross_entropy", loss_of_rows<A, D>, dim3(blocks_of(rows)), dim3(row_threads<A>(width)),
           0, stream_, losses.data<double>(), Rows<D>(dlogits), Rows<A>(logits),
           targets.data<std::int32_t>(), width, scale, aligned);
  };
  dispatch(dlogits.empty() ? logits.dtype() : dlogits.dtype(), [&]<class D>() {
    if (logits.dtype() == DType::kF64) {
      run.template operator()<double, D>();
    } else {
      run.template operator()<float, D>();
    }
  });
}

}  // namespace pg::model
