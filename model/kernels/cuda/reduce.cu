#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::sum_rows(TensorView, TensorView) {
  throw fail(ExitCode::kBug, "sum_rows is not written for the GPU yet");
}

void CudaKernels::sum(TensorView, TensorView) {
  throw fail(ExitCode::kBug, "sum is not written for the GPU yet");
}

void CudaKernels::sum_of_squares(TensorView, std::span<const TensorView>) {
  throw fail(ExitCode::kBug, "sum_of_squares is not written for the GPU yet");
}

}  // namespace pg::model
