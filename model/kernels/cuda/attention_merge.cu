#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::attention_merge(TensorView, TensorView, TensorView, TensorView) {
  throw fail(ExitCode::kBug, "attention_merge is not written for the GPU yet");
}

}  // namespace pg::model
