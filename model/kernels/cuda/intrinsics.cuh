// What CUDA has and C++ has not, in one place: everything else in this folder's kernels is plain
// C++ that a compiler for the host understands too.
#pragma once

#include <cuda_runtime.h>

namespace pg::model::cuda {

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char pg_dynamic_shared[];
  return pg_dynamic_shared;
}

}  // namespace pg::model::cuda
