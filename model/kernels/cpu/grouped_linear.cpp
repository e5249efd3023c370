#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::grouped_linear_forward(TensorView, TensorView, std::span<const TensorView>,
                                        std::span<const TensorView>,
                                        std::span<const std::int64_t>) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::grouped_linear_backward_input(TensorView, TensorView, std::span<const TensorView>,
                                               std::span<const std::int64_t>) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::grouped_linear_backward_weight(std::span<const TensorView>,
                                                std::span<const TensorView>, TensorView, TensorView,
                                                std::span<const std::int64_t>) {
  PG_ASSERT(false, "comes");
}

}  // namespace pg::model
