// Which kernel computes attention on the GPU: cuDNN's fused graphs where they take the call, else
// our own. cuDNN: cudnn_attention.cpp, or no_cudnn_attention.cpp in a build without it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "comm/gpu.h"
#include "model/kernels/cuda/attention_kernels.h"

namespace pg::model::cuda {

class CudnnAttention;  // handle and graphs

class CudaAttention {
 public:
  explicit CudaAttention(comm::Gpu& gpu);
  ~CudaAttention();

  // Empty: cuDNN's graphs can express the call. Else why not. By shapes, strides and types alone,
  // whatever this build has.
  static std::string cudnn_refuses(const TensorView& o, const TensorView& q, const TensorView& k,
                                   const TensorView& v, const AttentionShape& shape,
                                   const Dropout& dropout);
  static bool takes(const TensorView& o, const TensorView& q, const TensorView& k,
                    const TensorView& v, const AttentionShape& shape, const Dropout& dropout) {
    return cudnn_refuses(o, q, k, v, shape, dropout).empty();
  }
  // What computes a training step's attention of this type and size, for a banner: "cuDNN 9.19.0",
  // or "own tensor-core kernel (documents)".
  std::string choice(DType type, std::int64_t sequences, std::int64_t positions, std::int64_t heads,
                     std::int64_t kv_heads, std::int64_t size, std::int64_t window, bool documents,
                     bool dropout);

  void forward(const ForwardOperands& call, Workspace& workspace);
  void backward(const BackwardOperands& call, Workspace& workspace);

 private:
  bool tensor_cores_take(const TensorView& q, const AttentionShape& shape) const;

  comm::Gpu& gpu_;
  std::size_t shared_ = 0;  // memory that a block can have
  std::unique_ptr<CudnnAttention> cudnn_;
};

}  // namespace pg::model::cuda
