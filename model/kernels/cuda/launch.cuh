// Launching kernels: sizes of grids, and errors with the kernel's name.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "comm/cuda/cuda_check.h"
#include "comm/error.h"

namespace pg::model::cuda {

inline constexpr int kWarp = 32;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Blocks of a grid; more than a GPU counts is a bug.
inline unsigned blocks_of(std::int64_t blocks) {
  PG_ASSERT(blocks > 0 && blocks <= 0x7FFFFFFF, "{} blocks", blocks);
  return static_cast<unsigned>(blocks);
}

// kernel<<<grid, block, shared, stream>>>(args...) on the stream, arguments converted to the
// kernel's parameters. More than 48 KiB of `shared` bytes are asked for as CUDA wants it.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared,
            cudaStream_t stream, A&&... args) {
  if (shared > 48 * 1024) {
    comm::cuda_check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        name);
  }
  const cudaLaunchConfig_t config{grid, block, shared, stream, nullptr, 0};
  comm::cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(args))...),
                   name);
}

}  // namespace pg::model::cuda
