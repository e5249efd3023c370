#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::embedding_forward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                    std::int64_t) {
  throw fail(ExitCode::kBug, "embedding_forward is not written for the GPU yet");
}

void CudaKernels::embedding_backward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                     std::int64_t) {
  throw fail(ExitCode::kBug, "embedding_backward is not written for the GPU yet");
}

}  // namespace pg::model
