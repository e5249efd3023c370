// Included before everything else when a .cu file is compiled for the simulated GPU: CUDA's
// built-in variables and functions as calls to it. The host's side of CUDA comes from the toolkit's
// own headers.
#pragma once

#include <cuda_runtime.h>
// The toolkit's headers come first: the names below are macros.
#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "tests/simulated_gpu/grid.h"
#include "tests/simulated_gpu/streams.h"

#define threadIdx (::pg::simulated::this_thread().thread)
#define blockIdx (::pg::simulated::this_thread().block)
#define blockDim (::pg::simulated::this_thread().block_dim)
#define gridDim (::pg::simulated::this_thread().grid_dim)
#define warpSize 32

// One block runs at a time, so that a static variable is a block's.
#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)

inline void __syncthreads() {
  ::pg::simulated::block_barrier();
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
  ::pg::simulated::warp_barrier(mask);
}
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return pg::simulated::exchange(mask, value,
                                 [=](int lane) { return lane / width * width + source % width; });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  return pg::simulated::exchange(mask, value, [=](int lane) {
    const int source = lane ^ bits;
    return source / width > lane / width ? lane : source;
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return pg::simulated::exchange(mask, value, [=](int lane) {
    const int source = lane + static_cast<int>(delta);
    return source / width == lane / width ? source : lane;
  });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return pg::simulated::exchange(mask, value, [=](int lane) {
    const int source = lane - static_cast<int>(delta);
    return source >= lane / width * width ? source : lane;
  });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const int set =
        pg::simulated::exchange(mask, predicate != 0 ? 1 : 0, [=](int) { return lane; });
    if ((mask >> lane & 1u) != 0 && set != 0) all |= 1u << lane;
  }
  return all;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __uint_as_float(unsigned x) {
  float y = 0;
  std::memcpy(&y, &x, sizeof(y));
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y = 0;
  std::memcpy(&y, &x, sizeof(y));
  return y;
}
inline int __float_as_int(float x) {
  return static_cast<int>(__float_as_uint(x));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}

// Threads run one at a time: these are atomic.
template <class T>
T atomicAdd(T* at, T x) {
  const T old = *at;
  *at = old + x;
  return old;
}
template <class T>
T atomicMax(T* at, T x) {
  const T old = *at;
  *at = std::max(old, x);
  return old;
}
template <class T>
T atomicCAS(T* at, T expected, T x) {
  const T old = *at;
  if (old == expected) *at = x;
  return old;
}

// As the toolkit's template of this name, which would hand the kernel to the driver.
#define cudaLaunchKernelEx pg_simulated_launch
template <class... P, class... A>
cudaError_t pg_simulated_launch(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                                A&&... args) {
  return pg::simulated::enqueue_kernel(
      *config, reinterpret_cast<const void*>(kernel),
      [kernel, arguments = std::tuple<P...>(std::forward<A>(args)...)] {
        std::apply(kernel, arguments);
      });
}
