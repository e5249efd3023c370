// Attention on the GPU: cuDNN's fused graphs where it takes the shape, else our own kernel.
#pragma once

#include "comm/gpu.h"

namespace pg::model::cuda {

class CudaAttention {
 public:
  explicit CudaAttention(comm::Gpu& gpu) : gpu_(gpu) {}

 private:
  [[maybe_unused]] comm::Gpu& gpu_;
};

}  // namespace pg::model::cuda
