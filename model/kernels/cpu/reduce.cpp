// Sums in fp64: each block of fixed size is summed by lanes, then the blocks' sums are added in
// order, so the result depends on the length alone.
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

template <class Term>
double blocked_sum(const TensorView& x, const Term& term) {
  PG_ASSERT(x.contiguous(), "{} is not flat", x.text());
  constexpr std::int64_t kBlock = 32768;
  const std::int64_t n = x.elements(), blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(blocks);
  if (n > 0) {
    cpu::dispatch(x.dtype(), [&]<class T>() {
      const T* const data = x.data<T>();
#pragma omp parallel for schedule(static) if (blocks > 1)
      for (std::int64_t b = 0; b < blocks; ++b) {
        const T* const block = data + b * kBlock;
        partial[b] = cpu::lane_sum<double>(std::min(kBlock, n - b * kBlock), [&](std::int64_t i) {
          return term(static_cast<double>(cpu::load(block[i])));
        });
      }
    });
  }
  double total = 0.0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

void CpuKernels::sum_rows(TensorView sums, TensorView x) {
  PG_ASSERT(x.rank() == 2 && sums.rank() == 1 && sums.dim(0) == x.dim(1), "sums {} x {}",
            sums.text(), x.text());
  const cpu::Rows<double> rows(x);
  double* const total = sums.data<double>();
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const double* const row = rows[i];
#pragma omp simd
    for (std::int64_t j = 0; j < rows.width; ++j) total[j] += row[j];
  }
}

void CpuKernels::sum(TensorView total, TensorView x) {
  *total.data<double>() += blocked_sum(x, [](double value) { return value; });
}

void CpuKernels::sum_of_squares(TensorView total, std::span<const TensorView> parts) {
  for (const auto& x : parts) {
    *total.data<double>() += blocked_sum(x, [](double value) { return value * value; });
  }
}

}  // namespace pg::model
