#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::moe_choose_experts(TensorView, TensorView, TensorView, std::int64_t) {
  throw fail(ExitCode::kBug, "moe_choose_experts is not written for the GPU yet");
}

void CudaKernels::moe_choose_tokens(TensorView, TensorView, std::int64_t) {
  throw fail(ExitCode::kBug, "moe_choose_tokens is not written for the GPU yet");
}

void CudaKernels::moe_count(TensorView, TensorView) {
  throw fail(ExitCode::kBug, "moe_count is not written for the GPU yet");
}

void CudaKernels::moe_drop(TensorView, TensorView, std::int64_t) {
  throw fail(ExitCode::kBug, "moe_drop is not written for the GPU yet");
}

}  // namespace pg::model
