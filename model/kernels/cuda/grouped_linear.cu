#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::grouped_linear_forward(TensorView, TensorView, std::span<const TensorView>,
                                         std::span<const TensorView>,
                                         std::span<const std::int64_t>) {
  throw fail(ExitCode::kBug, "grouped_linear_forward is not written for the GPU yet");
}

void CudaKernels::grouped_linear_backward_input(TensorView, TensorView, std::span<const TensorView>,
                                                std::span<const std::int64_t>) {
  throw fail(ExitCode::kBug, "grouped_linear_backward_input is not written for the GPU yet");
}

void CudaKernels::grouped_linear_backward_weight(std::span<const TensorView>,
                                                 std::span<const TensorView>, TensorView,
                                                 TensorView, std::span<const std::int64_t>) {
  throw fail(ExitCode::kBug, "grouped_linear_backward_weight is not written for the GPU yet");
}

}  // namespace pg::model
