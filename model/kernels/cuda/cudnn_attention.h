// Causal attention by cuDNN's fused graphs, kept for each shape. cudnn_attention.cpp has it, in a
// build without cuDNN no_cudnn_attention.cpp does not.
#pragma once

#include <memory>
#include <string>

#include "comm/gpu.h"
#include "model/kernels/cuda/attention_kernels.h"

namespace pg::model::cuda {

class CudnnAttention {
 public:
  // Null where this build, the library or the GPU has none.
  static std::unique_ptr<CudnnAttention> make(comm::Gpu& gpu);
  // For a GPU that need not be there, described in cuDNN's JSON, and its compute capability (90):
  // it can be asked what it refuses, but computes nothing. Error(kBug) in a build without cuDNN.
  static std::unique_ptr<CudnnAttention> for_gpu_of(const std::string& description, int capability);
  virtual ~CudnnAttention() = default;

  virtual std::string version() const = 0;  // "9.19.0"
  // Empty: it has a graph for the call, which it makes now if it is new. Else cuDNN's words. Only
  // what CudaAttention::cudnn_refuses lets pass may be asked. Of the operands only shapes, strides
  // and types are read.
  virtual std::string refuses(const ForwardOperands& call) = 0;
  virtual std::string refuses(const BackwardOperands& call) = 0;
  // What it does not refuse.
  virtual void forward(const ForwardOperands& call, Workspace& workspace) = 0;
  virtual void backward(const BackwardOperands& call, Workspace& workspace) = 0;
};

}  // namespace pg::model::cuda
