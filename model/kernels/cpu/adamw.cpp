#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::adamw(TensorView, TensorView, TensorView, TensorView, TensorView,
                       const AdamWStep&) {}

}  // namespace pg::model
