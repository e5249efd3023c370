#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::attention_backward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                     TensorView, TensorView, TensorView, TensorView,
                                     const AttentionShape&, const Dropout&, bool) {
  throw fail(ExitCode::kBug, "attention_backward is not written for the GPU yet");
}

}  // namespace pg::model
