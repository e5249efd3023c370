#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::moe_rows(TensorView, std::span<std::int64_t>, TensorView) {
  throw fail(ExitCode::kBug, "moe_rows is not written for the GPU yet");
}

void CudaKernels::moe_dispatch(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_dispatch is not written for the GPU yet");
}

void CudaKernels::moe_combine(TensorView, TensorView, TensorView, TensorView, bool) {
  throw fail(ExitCode::kBug, "moe_combine is not written for the GPU yet");
}

void CudaKernels::moe_gate_gradient(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_gate_gradient is not written for the GPU yet");
}

}  // namespace pg::model
