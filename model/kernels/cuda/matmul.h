// Matrix products by cuBLASLt, with bf16 operands summed in fp32, and the choice among its
// candidates made once for each shape.
#pragma once

#include "comm/gpu.h"

namespace pg::model::cuda {

class CudaMatmul {
 public:
  explicit CudaMatmul(comm::Gpu& gpu) : gpu_(gpu) {}

 private:
  [[maybe_unused]] comm::Gpu& gpu_;
};

}  // namespace pg::model::cuda
