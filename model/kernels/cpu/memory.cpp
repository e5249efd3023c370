#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::fill_zero(TensorView) {}

void CpuKernels::copy(TensorView, TensorView) {}

void CpuKernels::add(TensorView, TensorView) {}

}  // namespace pg::model
