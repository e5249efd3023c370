// Our own attention kernels, as attention.cpp calls them: operands are checked. Those for tensor
// cores take bf16 heads of up to kMostTensorCoreHead and a positive scale, the others everything.
#pragma once

#include <cstddef>
#include <cstdint>

#include "comm/gpu.h"
#include "model/kernels/cuda/workspace.h"
#include "model/kernels/kernels.h"

namespace pg::model::cuda {

inline constexpr std::int64_t kMostTensorCoreHead = 256;
// Shared memory that a block of theirs takes at most: more than some GPUs have.
constexpr std::size_t tensor_core_shared(std::int64_t size) {
  return static_cast<std::size_t>(size <= 128 ? 140 : 200) * 1024;
}

struct ForwardOperands {
  TensorView o, lse, q, k, v;
  const AttentionShape& shape;
  const Dropout& dropout;
};
struct BackwardOperands {
  TensorView dq, dk, dv, d_o, q, k, v, o, lse;
  const AttentionShape& shape;
  const Dropout& dropout;
  bool accumulate;
};

void attention_forward_tiles(const ForwardOperands& call, Workspace& workspace,
                             comm::GpuStream stream);
void attention_forward_tensor_cores(const ForwardOperands& call, Workspace& workspace,
                                    comm::GpuStream stream);
void attention_backward_tiles(const BackwardOperands& call, Workspace& workspace,
                              comm::GpuStream stream);
void attention_backward_tensor_cores(const BackwardOperands& call, Workspace& workspace,
                                     comm::GpuStream stream);

}  // namespace pg::model::cuda
