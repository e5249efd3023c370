// Linear layers as matrix products, and the bias gradient.
#include <omp.h>

#include <algorithm>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/dispatch.h"
#include "model/kernels/cpu/matmul.h"

namespace pg::model {

namespace {

// dbias[O] += sum over rows of dy[N,O]: each column range by one thread, rows in order.
template <class T>
void add_column_sums(TensorView dbias, TensorView dy) {
  using Acc = cpu::acc_t<T>;
  constexpr std::int64_t kColumns = 64;
  const auto rows = dy.dim(0), columns = dy.dim(1), stride = dy.stride(0);
  const T* x = dy.data<T>();
  Acc* sum = dbias.data<Acc>();
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < columns; begin += kColumns) {
    const auto width = std::min(kColumns, columns - begin);
    Acc partial[kColumns] = {};
    for (std::int64_t i = 0; i < rows; ++i) {
      const T* row = x + i * stride + begin;
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) partial[j] += cpu::load(row[j]);
    }
    for (std::int64_t j = 0; j < width; ++j) sum[begin + j] += partial[j];
  }
}

void check_shapes(const TensorView& y, const TensorView& x, const TensorView& w) {
  PG_ASSERT(y.rank() == 2 && x.rank() == 2 && w.rank() == 2 && y.dim(0) == x.dim(0) &&
                y.dim(1) == w.dim(0) && x.dim(1) == w.dim(1),
            "y {} x {} w {}", y.text(), x.text(), w.text());
}

}  // namespace

CpuKernels::CpuKernels(int threads)
    : threads_(threads > 0 ? threads : omp_get_max_threads()),
      matmul_(std::make_unique<MatmulEngine>()) {
  omp_set_num_threads(threads_);
}
CpuKernels::~CpuKernels() = default;

std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  return std::make_unique<CpuKernels>(threads);
}

void CpuKernels::linear_forward(TensorView y, TensorView x, TensorView w, TensorView bias) {
  check_shapes(y, x, w);
  matmul_->run({.c = y, .a = x, .b = w, .bias = bias, .transpose_b = true, .keep_packed = true});
}

void CpuKernels::linear_backward_input(TensorView dx, TensorView dy, TensorView w,
                                       bool accumulate) {
  check_shapes(dy, dx, w);
  matmul_->run(
      {.c = dx, .a = dy, .b = w, .bias = {}, .accumulate = accumulate, .keep_packed = true});
}

void CpuKernels::linear_backward_weight(TensorView dw, TensorView dbias, TensorView dy,
                                        TensorView x) {
  check_shapes(dy, x, dw);
  matmul_->run({.c = dw, .a = dy, .b = x, .bias = {}, .transpose_a = true, .accumulate = true});
  if (dbias.empty()) return;
  cpu::dispatch(dy.dtype(), [&]<class T>() { add_column_sums<T>(dbias, dy); });
}

void CpuKernels::weights_changed() {
  matmul_->forget_packed();
}
void CpuKernels::weights_changed(TensorView range) {
  PG_ASSERT(range.contiguous(), "{} has gaps", range.text());
  matmul_->forget_packed(range.raw(), range.bytes());
}

}  // namespace pg::model
