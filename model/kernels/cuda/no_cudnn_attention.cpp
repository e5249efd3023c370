#include "comm/error.h"
#include "model/kernels/cuda/cudnn_attention.h"

namespace pg::model::cuda {

std::unique_ptr<CudnnAttention> CudnnAttention::make(comm::Gpu& /*gpu*/) {
  return nullptr;
}

std::unique_ptr<CudnnAttention> CudnnAttention::for_gpu_of(const std::string& /*description*/,
                                                           int /*capability*/) {
  throw fail(ExitCode::kBug, "bug: cuDNN asked for in a build without it");
}

}  // namespace pg::model::cuda
