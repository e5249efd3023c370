#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::swiglu_forward(TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "swiglu_forward is not written for the GPU yet");
}

void CudaKernels::swiglu_backward(TensorView, TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "swiglu_backward is not written for the GPU yet");
}

void CudaKernels::gelu_forward(TensorView, TensorView) {
  throw fail(ExitCode::kBug, "gelu_forward is not written for the GPU yet");
}

void CudaKernels::gelu_backward(TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "gelu_backward is not written for the GPU yet");
}

}  // namespace pg::model
