#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::rope(TensorView, TensorView, double, bool) {}

}  // namespace pg::model
