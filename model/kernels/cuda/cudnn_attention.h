// Causal attention by cuDNN's fused graphs, kept for each shape.
#pragma once

#include <memory>
#include <string>

#include "comm/gpu.h"
#include "model/kernels/cuda/attention_kernels.h"

namespace pg::model::cuda {

class CudnnAttention {
 public:
  // Null where this build, this library or this GPU has none.
  static std::unique_ptr<CudnnAttention> make(comm::Gpu& gpu);
  virtual ~CudnnAttention() = default;

  virtual std::string version() const = 0;  // "9.19.0"
  // Empty: it has graphs for the forward and the backward of this call, which it makes now if they
  // are new. Else what it said. Of `call` only shapes, strides and types are read.
  virtual std::string refuses(const ForwardOperands& call) = 0;
  virtual void forward(const ForwardOperands& call, Workspace& workspace) = 0;
  virtual void backward(const BackwardOperands& call, Workspace& workspace) = 0;
};

}  // namespace pg::model::cuda
