#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::linear_forward(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "linear_forward is not written for the GPU yet");
}

void CudaKernels::linear_backward_input(TensorView, TensorView, TensorView, bool) {
  throw fail(ExitCode::kBug, "linear_backward_input is not written for the GPU yet");
}

void CudaKernels::linear_gelu_forward(TensorView, TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "linear_gelu_forward is not written for the GPU yet");
}

void CudaKernels::linear_gelu_backward_input(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "linear_gelu_backward_input is not written for the GPU yet");
}

void CudaKernels::linear_backward_weight(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "linear_backward_weight is not written for the GPU yet");
}

}  // namespace pg::model
