// Attention in bf16 by tensor cores: what forward and backward share. Operands lie in shared memory
// as rows of a padded head (kDepth, zeros past the size), 16 bytes apart modulo 128, so that the
// eight rows of a matrix meet all banks once. Sums are fragments of 16 x 8 (intrinsics.cuh).
//
// A warp's product of 16 rows is itself, rounded to bf16, the left operand of the next product: the
// layouts agree, so probabilities never leave the registers.
#pragma once

#include <limits>

#include "model/kernels/cuda/attention_call.cuh"
#include "model/kernels/cuda/intrinsics.cuh"

namespace pg::model::cuda {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <int kDepth>
inline constexpr int kRowPitch = kDepth + 8;

// A fragment's row (0 to 7, and 8 later) and first column of this lane.
__device__ __forceinline__ int fragment_row() {
  return static_cast<int>(threadIdx.x % 32 / 4);
}
__device__ __forceinline__ int fragment_column() {
  return static_cast<int>(threadIdx.x % 4 * 2);
}
__device__ __forceinline__ int warp_index() {
  return static_cast<int>(threadIdx.x / 32);
}

// Issues to[kRows][pitch] = rows first..; zeros where no row is there and past the head's size.
template <int kRows, int kDepth, int kThreads>
__device__ __forceinline__ void load_rows(bf16* to, HeadRows<bf16> rows, int first, Span there,
                                          int size) {
  constexpr int kPacks = kDepth / 8;
  if (rows.packs) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kPacks; i += kThreads) {
      const int r = i / kPacks, c = i % kPacks * 8;
      const bool valid = there.holds(first + r) && c < size;
      copy_async(to + r * kRowPitch<kDepth> + c, valid ? rows.at(first + r) + c : rows.data, valid);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDepth; i += kThreads) {
    const int r = i / kDepth, c = i % kDepth;
    const bool valid = there.holds(first + r) && c < size;
    to[r * kRowPitch<kDepth> + c] = valid ? rows.at(first + r)[c] : bf16(0.0f);
  }
}

// sums[m][n] += left right^T, over the head: 16 kM rows of `left`, 8 kN rows of `right`.
template <int kDepth, int kM, int kN>
__device__ __forceinline__ void add_row_products(float (&sums)[kM][kN][4], const bf16* left,
                                                 const bf16* right) {
  constexpr int kPitch = kRowPitch<kDepth>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bf16* a = left + lane % 16 * kPitch + lane / 16 * 8;
  const bf16* b = right + (lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < kDepth; d += 16) {
    std::uint32_t as[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_matrices(as[m], a + m * 16 * kPitch + d);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t bs[4];
      load_matrices(bs, b + n * 8 * kPitch + d);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(sums[m][n], as[m], bs[0], bs[1]);
        mma_bf16(sums[m][n + 1], as[m], bs[2], bs[3]);
      }
    }
  }
}

// sums[m][n] += p right: p of 8 kK columns, as many rows of `right`; 8 kN columns from its first.
template <int kDepth, int kM, int kK, int kN>
__device__ __forceinline__ void add_column_products(float (&sums)[kM][kN][4],
                                                    const float (&p)[kM][kK][4],
                                                    const bf16* right) {
  constexpr int kPitch = kRowPitch<kDepth>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bf16* b = right + lane % 16 * kPitch + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kK; k += 2) {
    std::uint32_t as[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto& from = p[m][k + i / 2];
        as[m][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t bs[4];
      load_matrices_transposed(bs, b + k * 8 * kPitch + n * 8);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(sums[m][n], as[m], bs[0], bs[1]);
        mma_bf16(sums[m][n + 1], as[m], bs[2], bs[3]);
      }
    }
  }
}

template <int kM, int kN>
__device__ __forceinline__ void clear(float (&sums)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
    }
  }
}

// Rows of fragments to rows first.. of the output, times `factor`; columns from `column`.
template <int kN>
__device__ __forceinline__ void put_fragments(const Output& to, const float (&sums)[1][kN][4],
                                              int b, int h, int first, int end, int column,
                                              int size, float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + fragment_row() + 8 * half;
    if (row >= end) continue;
    const auto at = to.offset(b, row, h);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int d = column + n * 8 + fragment_column();
      if (d < size) {
        to.put_pair(at + d, sums[0][n][2 * half] * factor, sums[0][n][2 * half + 1] * factor,
                    d + 1 < size);
      }
    }
  }
}

// work.operator()<kDepth>() for the smallest of the depths that kernels are made for.
template <class Work>
void with_depth(std::int64_t size, const Work& work) {
  if (size <= 64) return work.template operator()<64>();
  if (size <= 96) return work.template operator()<96>();
  if (size <= 128) return work.template operator()<128>();
  return work.template operator()<256>();
}

}  // namespace pg::model::cuda
