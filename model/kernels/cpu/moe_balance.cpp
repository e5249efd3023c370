// The load-balance loss of each sequence from its statistics.
#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::moe_balance_loss(TensorView losses, TensorView stats, double factor) {
  PG_ASSERT(losses.rank() == 2 && stats.rank() == 2 && losses.dim(0) == stats.dim(0) &&
                losses.dim(1) == 1 && stats.dim(1) % 2 == 1,
            "losses {} stats {}", losses.text(), stats.text());
  const auto experts = stats.dim(1) / 2;
  for (std::int64_t b = 0; b < stats.dim(0); ++b) {
    const double* counts = stats.data<double>() + b * stats.stride(0);
    const double* probs = counts + experts;
    double sum = 0.0;
    for (std::int64_t e = 0; e < experts; ++e) sum += counts[e] * probs[e];
    losses.data<double>()[b * losses.stride(0)] = factor * sum;
  }
}

}  // namespace pg::model
