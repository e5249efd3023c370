// What precedes attention's own kernels: their arguments, and small kernels for what they read from
// the workspace.
#pragma once

#include "model/kernels/cuda/attention_call.cuh"
#include "model/kernels/cuda/attention_kernels.h"
#include "model/kernels/cuda/launch.cuh"

namespace pg::model::cuda {

template <class T>
Input<T> input(const TensorView& x) {
  const auto whole = [](std::int64_t elements) {
    return elements * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  };
  return {x.data<T>(), x.stride(0), x.stride(1), x.stride(2),
          aligned16(x.raw()) && whole(x.dim(3)) && whole(x.stride(0)) && whole(x.stride(1)) &&
              whole(x.stride(2))};
}

inline Output output(const TensorView& x, DType type, bool accumulate) {
  const bool pairs = reinterpret_cast<std::uintptr_t>(x.raw()) % (2 * dtype_size(x.dtype())) == 0 &&
                     x.stride(0) % 2 == 0 && x.stride(1) % 2 == 0 && x.stride(2) % 2 == 0;
  return {x.raw(), x.stride(0), x.stride(1), x.stride(2), x.dtype() != type, pairs, accumulate};
}

// The call, and RowStats of all queries if `stats_size` (of one) is not 0: [B, H, padded] in the
// workspace. Issues what fills the rest of the workspace.
struct PreparedCall {
  AttentionCall call;
  void* stats;
};
PreparedCall prepare_attention(const TensorView& q, const TensorView& k,
                               const AttentionShape& shape, const Dropout& dropout,
                               std::size_t stats_size, Workspace& workspace, cudaStream_t stream);

// stats = (lse * lse_factor, rowsum(dO O)).
void launch_row_stats(const PreparedCall& prepared, const BackwardOperands& call, double lse_factor,
                      cudaStream_t stream);

}  // namespace pg::model::cuda
