#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::cross_entropy(TensorView, TensorView, TensorView, TensorView, double) {}

}  // namespace pg::model
