#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::cross_entropy_stats(TensorView, TensorView, TensorView, std::int64_t) {
  throw fail(ExitCode::kBug, "cross_entropy_stats is not written for the GPU yet");
}

void CudaKernels::cross_entropy_combine(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "cross_entropy_combine is not written for the GPU yet");
}

void CudaKernels::cross_entropy_gradient(TensorView, TensorView, TensorView, TensorView,
                                         std::int64_t, double) {
  throw fail(ExitCode::kBug, "cross_entropy_gradient is not written for the GPU yet");
}

}  // namespace pg::model
