#include "model/kernels/cuda/cuda_kernels.h"

#include "model/kernels/cuda/attention.h"
#include "model/kernels/cuda/matmul.h"

namespace pg::model {

CudaKernels::CudaKernels(comm::Gpu& gpu)
    : gpu_(gpu),
      stream_(gpu.compute()),
      matmul_(std::make_unique<cuda::CudaMatmul>(gpu)),
      attention_(std::make_unique<cuda::CudaAttention>(gpu)) {}

CudaKernels::~CudaKernels() = default;

std::unique_ptr<Kernels> make_cuda_kernels(comm::Gpu& gpu) {
  return std::make_unique<CudaKernels>(gpu);
}

}  // namespace pg::model
