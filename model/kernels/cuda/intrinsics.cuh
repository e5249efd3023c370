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

// 2^x to two units in the last place; 0 for -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two fp32 as a pair of bf16, `low` in the lower half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Tensor cores, by a whole warp: c[16,8] += a[16,16] b[16,8] in bf16, summed in fp32. With g = lane
// / 4 and t = lane % 4 a lane holds, in pairs along the columns of a and c and the rows of b,
//   c: (g, 2t) (g+8, 2t)   a: (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)   b: (2t, g) (2t+8, g)
__device__ __forceinline__ void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                                         std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of bf16 from shared memory to a warp: lane 8m + r names row r (16 bytes,
// aligned) of matrix m. Of each matrix a lane gets (g, 2t) and (g, 2t+1).
__device__ __forceinline__ void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
// Transposed: a lane gets (2t, g) and (2t+1, g).
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// 16 bytes from global to shared memory without waiting; zeros where not `valid` (`from` is not
// read, but is an address). Copies are waited for in groups, by the thread that issued them: all
// but the latest kLeft groups are complete after copy_async_wait.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
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
