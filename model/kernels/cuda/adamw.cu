#include "comm/error.h"
#include "model/kernels/cuda/cuda_kernels.h"

namespace pg::model {

void CudaKernels::adamw(std::span<const AdamWTensors>, const AdamWStep&) {
  throw fail(ExitCode::kBug, "adamw is not written for the GPU yet");
}

}  // namespace pg::model
