#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::swiglu_forward(TensorView, TensorView, TensorView) {}

void CpuKernels::swiglu_backward(TensorView, TensorView, TensorView, TensorView, TensorView) {}

void CpuKernels::gelu_forward(TensorView, TensorView) {}

void CpuKernels::gelu_backward(TensorView, TensorView, TensorView) {}

}  // namespace pg::model
