#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::moe_rows(TensorView, std::span<std::int64_t>, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_dispatch(TensorView, TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_combine(TensorView, TensorView, TensorView, TensorView, bool) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_gate_gradient(TensorView, TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

}  // namespace pg::model
