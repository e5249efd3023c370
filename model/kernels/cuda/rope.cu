#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::rope(TensorView, TensorView, double, bool) {
  throw fail(ExitCode::kBug, "rope is not written for the GPU yet");
}

}  // namespace pg::model
