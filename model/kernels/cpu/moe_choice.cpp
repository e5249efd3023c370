#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::moe_choose_experts(TensorView, TensorView, TensorView, std::int64_t) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_choose_tokens(TensorView, TensorView, std::int64_t) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_count(TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

void CpuKernels::moe_drop(TensorView, TensorView, std::int64_t) {
  PG_ASSERT(false, "comes");
}

}  // namespace pg::model
