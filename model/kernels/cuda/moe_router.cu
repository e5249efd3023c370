#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::moe_softmax(TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_softmax is not written for the GPU yet");
}

void CudaKernels::moe_softmax_backward(TensorView, TensorView, TensorView, TensorView, double) {
  throw fail(ExitCode::kBug, "moe_softmax_backward is not written for the GPU yet");
}

void CudaKernels::moe_gates(TensorView, TensorView, TensorView, TensorView, bool) {
  throw fail(ExitCode::kBug, "moe_gates is not written for the GPU yet");
}

void CudaKernels::moe_gates_backward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                     bool) {
  throw fail(ExitCode::kBug, "moe_gates_backward is not written for the GPU yet");
}

void CudaKernels::moe_balance_loss(TensorView, TensorView, double) {
  throw fail(ExitCode::kBug, "moe_balance_loss is not written for the GPU yet");
}

void CudaKernels::moe_balance_backward(TensorView, TensorView, double) {
  throw fail(ExitCode::kBug, "moe_balance_backward is not written for the GPU yet");
}

void CudaKernels::moe_statistics(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_statistics is not written for the GPU yet");
}

}  // namespace pg::model
