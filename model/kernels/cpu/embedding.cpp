#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::embedding_forward(TensorView, TensorView, TensorView, TensorView, TensorView) {}

void CpuKernels::embedding_backward(TensorView, TensorView, TensorView, TensorView, TensorView) {}

}  // namespace pg::model
