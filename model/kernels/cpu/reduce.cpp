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

double CpuKernels::sum(TensorView x) {
  return blocked_sum(x, [](double value) { return value; });
}

double CpuKernels::sum_of_squares(TensorView x) {
  return blocked_sum(x, [](double value) { return value * value; });
}

}  // namespace pg::model
