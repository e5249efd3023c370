#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::moe_logits(TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_logits_backward(TensorView, TensorView, TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_softmax(TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_softmax_backward(TensorView, TensorView, TensorView, TensorView, double) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_gates(TensorView, TensorView, TensorView, TensorView, bool) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_gates_backward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                    bool) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_balance_backward(TensorView, TensorView, double) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_statistics(TensorView, TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::sum_rows(TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

}  // namespace pg::model
