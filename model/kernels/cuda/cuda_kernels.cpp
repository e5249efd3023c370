#include "model/kernels/cuda/cuda_kernels.h"

#include "model/kernels/cuda/attention.h"
#include "model/kernels/cuda/matmul.h"

namespace pg::model {

CudaKernels::CudaKernels(comm::Gpu& gpu)
    : gpu_(gpu),
      stream_(gpu.compute()),
      workspace_(stream_),
      matmul_(std::make_unique<cuda::CudaMatmul>(gpu)),
      attention_(std::make_unique<cuda::CudaAttention>(gpu)) {}

CudaKernels::~CudaKernels() = default;

std::string CudaKernels::choices_text() const {
  return matmul_->choices_text();
}

std::string CudaKernels::set_choices(std::string_view text) {
  return matmul_->set_choices(text);
}

std::string CudaKernels::attention_choice(const AttentionUse& use) {
  return attention_->choice(use.type, use.sequences, use.positions, use.heads, use.kv_heads,
                            use.head_dim, use.window, use.documents, use.dropout);
}

std::unique_ptr<Kernels> make_cuda_kernels(comm::Gpu& gpu) {
  return std::make_unique<CudaKernels>(gpu);
}

}  // namespace pg::model
