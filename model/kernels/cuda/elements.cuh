// Elements on the GPU: conversion through the accumulator type, 16-byte accesses, sums over warps
// and blocks in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "comm/dtype.h"
#include "comm/error.h"
#include "model/kernels/cuda/intrinsics.cuh"

namespace pg::model::cuda {

template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// work.operator()<T>() for the compute type T of `type`.
template <class Work>
decltype(auto) dispatch(DType type, Work&& work) {
  switch (type) {
    case DType::kF64:
      return std::forward<Work>(work).template operator()<double>();
    case DType::kF32:
      return std::forward<Work>(work).template operator()<float>();
    case DType::kBF16:
      return std::forward<Work>(work).template operator()<bf16>();
    default:
      throw fail(ExitCode::kBug, "bug: {} is not a compute type", dtype_name(type));
  }
}

template <class T>
__host__ __device__ __forceinline__ acc_t<T> load(T x) {
  return static_cast<acc_t<T>>(x);
}
// Rounds to nearest, ties to even. A bf16 goes through the hardware's conversion: the bits of
// pg::bf16(float), except that a NaN becomes the one NaN 0x7FFF.
template <class T>
__device__ __forceinline__ T store(acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 y;
    y.bits = round_bf16(x);
    return y;
  } else {
    return x;
  }
}
// Between any two compute types; fp64 reaches bf16 through fp32 (two roundings), as on the CPU.
template <class To, class From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<From, bf16>) {
    return static_cast<To>(static_cast<float>(x));
  } else {
    return store<To>(static_cast<acc_t<To>>(x));
  }
}

// As many elements as 16 bytes hold: one access when the address is so aligned.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T at[kSize];
};
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  store_words(to, std::bit_cast<Words>(pack));
}
// The same for values that stay in registers while other work goes on: bf16 elements of a Pack
// would take a register each.
template <class T>
struct alignas(16) Held {
  T at[16 / sizeof(T)];
  __device__ __forceinline__ acc_t<T> operator[](int i) const { return at[i]; }
  __device__ __forceinline__ T element(int i) const { return at[i]; }
  __device__ __forceinline__ void set(int i, T x) { at[i] = x; }
};
template <>
struct Held<bf16> {
  std::uint32_t words[4];  // the earlier element below
  __device__ __forceinline__ float operator[](int i) const {
    return std::bit_cast<float>(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xFFFF0000u);
  }
  __device__ __forceinline__ bf16 element(int i) const {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16));
    return x;
  }
  __device__ __forceinline__ void set(int i, bf16 x) {
    words[i / 2] |= static_cast<std::uint32_t>(x.bits) << (i % 2 * 16);  // from zeros
  }
};
// Elements [0, n) of `from`, n <= Pack<T>::kSize, then zeros. kAligned: `from` is a multiple of 16
// bytes.
template <bool kAligned, class T>
__device__ __forceinline__ Held<T> load_held(const T* from, int n) {
  constexpr int kSize = Pack<T>::kSize;
  if (kAligned && n == kSize) return std::bit_cast<Held<T>>(load_words(from));
  Held<T> held{};
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (i < n) held.set(i, from[i]);
  }
  return held;
}
template <bool kAligned, class T>
__device__ __forceinline__ void store_held(T* to, const Held<T>& held, int n) {
  constexpr int kSize = Pack<T>::kSize;
  if (kAligned && n == kSize) {
    store_words(to, std::bit_cast<Words>(held));
    return;
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (i < n) to[i] = held.element(i);
  }
}
// Rounded as by store(); bf16 in pairs.
template <class T>
__device__ __forceinline__ Held<T> round_held(const acc_t<T> (&x)[Pack<T>::kSize]) {
  Held<T> held;
  if constexpr (std::is_same_v<T, bf16>) {
#pragma unroll
    for (int i = 0; i < 4; ++i) held.words[i] = round_bf16_pair(x[2 * i], x[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) held.at[i] = x[i];
  }
  return held;
}
inline bool aligned16(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

// Every lane of a full warp gets the same bits: x of lane i and i^16, then i^8, ...
template <class A>
__device__ __forceinline__ A warp_sum(A x) {
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, lane);
  return x;
}
// A NaN is the maximum.
template <class A>
__device__ __forceinline__ A larger(A a, A b) {
  return a > b || a != a ? a : b;
}
template <class A>
__device__ __forceinline__ A warp_max(A x) {
  for (int lane = 16; lane > 0; lane /= 2) x = larger(x, __shfl_xor_sync(0xFFFFFFFFu, x, lane));
  return x;
}

// Over all threads of a block whose size is a multiple of 32; every thread gets the same bits.
// `partial` is shared memory of 32 entries that nobody else uses meanwhile.
template <class A>
__device__ __forceinline__ A block_sum(A x, A* partial) {
  x = warp_sum(x);
  const unsigned warps = blockDim.x / 32;
  if (warps == 1) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return warp_sum(lane < warps ? partial[lane] : A{});
}

}  // namespace pg::model::cuda
