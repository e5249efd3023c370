// Attention in tiles of 64 queries and 64 keys by fused multiply-adds in the accumulator type: for
// fp64, fp32, and heads that the tensor cores do not take. Head sizes are any: scores are summed
// over chunks of the head, and a block makes one slice of the head's output.
//
// Thread (x, y) of 16 x 16 owns rows y + 16i and columns x + 16j of a product.
#pragma once

#include "model/kernels/cuda/attention_call.cuh"
#include "model/kernels/cuda/intrinsics.cuh"

namespace pg::model::cuda {

inline constexpr int kTile = 64, kChunk = 32, kTileThreads = 256, kTileRows = 4;

// Columns of a slice: accumulators are registers, of which doubles take two.
template <class A>
inline constexpr int kSlice = sizeof(A) == 8 ? 64 : 128;
template <class A>
inline constexpr int kSliceColumns = kSlice<A> / 16;

template <class A>
struct TileShared {
  static constexpr int kPitch = kChunk + 1, kScorePitch = kTile + 1;
  A left[kTile * kPitch], right[kTile * kPitch];
  A values[kTile * kSlice<A>];
  A scores[kTile * kScorePitch];
  A slopes[kTile * kScorePitch];  // of the backward; forward's memory ends before
};
template <class A>
inline constexpr std::size_t kForwardShared = offsetof(TileShared<A>, slopes);
template <class A>
inline constexpr std::size_t kBackwardShared = sizeof(TileShared<A>);

__device__ inline int tile_x() {
  return static_cast<int>(threadIdx.x % 16);
}
__device__ inline int tile_y() {
  return static_cast<int>(threadIdx.x / 16);
}

// Over the 16 threads of a row; all get the same bits.
template <class A>
__device__ __forceinline__ A row_sum(A x) {
  for (int lane = 8; lane > 0; lane /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, lane);
  return x;
}
// Passes NaN by: the exponential brings it back.
template <class A>
__device__ __forceinline__ A row_max(A x) {
  for (int lane = 8; lane > 0; lane /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, x, lane);
    x = other > x ? other : x;
  }
  return x;
}

// to[64][width] = rows first.., columns column..; zeros outside of `rows_there` and of `size`.
template <class T>
__device__ __forceinline__ void load_tile_rows(acc_t<T>* to, int pitch, int width, HeadRows<T> rows,
                                               int first, Span rows_there, int column, int size) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * width; i += kTileThreads) {
    const int r = i / width, c = i % width;
    const bool there = rows_there.holds(first + r) && column + c < size;
    to[r * pitch + c] = there ? load(rows.at(first + r)[column + c]) : acc_t<T>{0};
  }
}

// Rows of one operand from `first` on, of which some exist.
template <class T>
struct TileOperand {
  HeadRows<T> rows;
  int first;
  Span there;
};

// s = left right^T over the whole head. Ends with a barrier.
template <class T>
__device__ __forceinline__ void tile_scores(acc_t<T> (&s)[kTileRows][kTileRows],
                                            TileShared<acc_t<T>>& shared, TileOperand<T> left,
                                            TileOperand<T> right, int size) {
  using A = acc_t<T>;
  constexpr int kPitch = TileShared<A>::kPitch;
  for (auto& row : s) {
    for (auto& x : row) x = A{0};
  }
  for (int column = 0; column < size; column += kChunk) {
    load_tile_rows(shared.left, kPitch, kChunk, left.rows, left.first, left.there, column, size);
    load_tile_rows(shared.right, kPitch, kChunk, right.rows, right.first, right.there, column,
                   size);
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < kChunk; ++d) {
      A a[kTileRows], b[kTileRows];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
        a[i] = shared.left[(tile_y() + 16 * i) * kPitch + d];
        b[i] = shared.right[(tile_x() + 16 * i) * kPitch + d];
      }
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
        for (int j = 0; j < kTileRows; ++j) s[i][j] += a[i] * b[j];
      }
    }
    __syncthreads();
  }
}

// sums += p values, or p^T values: p[64][64] and values[64][slice] in shared memory.
template <bool kTransposed, class A>
__device__ __forceinline__ void add_tile_product(A (&sums)[kTileRows][kSliceColumns<A>], const A* p,
                                                 const A* values) {
  constexpr int kPitch = TileShared<A>::kScorePitch;
#pragma unroll 4
  for (int k = 0; k < kTile; ++k) {
    A a[kTileRows];
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      const int row = tile_y() + 16 * i;
      a[i] = kTransposed ? p[k * kPitch + row] : p[row * kPitch + k];
    }
#pragma unroll
    for (int j = 0; j < kSliceColumns<A>; ++j) {
      const A b = values[k * kSlice<A> + tile_x() + 16 * j];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) sums[i][j] += a[i] * b;
    }
  }
}

}  // namespace pg::model::cuda
