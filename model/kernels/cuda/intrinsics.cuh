// What CUDA has and C++ has not, in one place: everything else in this folder's kernels is plain
// C++ that a compiler for the host understands too.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pg::model::cuda {

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char pg_dynamic_shared[];
  return pg_dynamic_shared;
}

// 16 bytes of memory of any type, at a multiple of 16 bytes, as one access.
struct alignas(16) Words {
  std::uint32_t at[4];
};
__device__ __forceinline__ Words load_words(const void* from) {
  return *static_cast<const Words*>(from);
}
// Spelled out: beside a path for single elements the compiler would cut it into four.
__device__ __forceinline__ void store_words(void* to, const Words& words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(words.at[0]), "r"(words.at[1]),
                 "r"(words.at[2]), "r"(words.at[3])
               : "memory");
}

// The bits of pg::bf16(x), except that every NaN becomes 0x7FFF (pg::bf16 keeps a NaN's sign and
// upper bits). Compute capability 8.0 or later.
__device__ __forceinline__ std::uint16_t round_bf16(float x) {
  std::uint16_t bits = 0;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
// Two by one instruction, `low` in the lower half: as they lie in memory one after the other.
__device__ __forceinline__ std::uint32_t round_bf16_pair(float low, float high) {
  std::uint32_t bits = 0;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

}  // namespace pg::model::cuda
