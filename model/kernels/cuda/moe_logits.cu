#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::moe_logits(TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_logits is not written for the GPU yet");
}

void CudaKernels::moe_logits_backward(TensorView, TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_logits_backward is not written for the GPU yet");
}

}  // namespace pg::model
