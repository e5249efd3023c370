// Matrices as kernels take them, and a warp's way over one row of one: in pieces that lie in
// registers, by 16-byte accesses where the rows allow it.
//
// Which lane has which element depends on the width alone, never on addresses: so do the bits of
// what lanes sum up.
#pragma once

#include <cstdint>

#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"
#include "model/tensor.h"

namespace pg::model::cuda {

// [n, width] with rows `stride` elements apart; an empty view has no base.
template <class T>
struct Rows {
  T* base = nullptr;
  std::int64_t stride = 0;

  explicit Rows(const TensorView& view) {
    if (view.empty()) return;
    PG_ASSERT(view.rank() == 2, "{} is not a matrix", view.text());
    base = view.data<T>();
    stride = view.stride(0);
  }
  __device__ T* operator[](std::int64_t row) const { return base + row * stride; }
};

// Every row of the matrix begins at a multiple of 16 bytes (as do those of an empty view).
inline bool rows_aligned(const TensorView& x) {
  return x.empty() || (aligned16(x.raw()) &&
                       (x.dim(0) == 1 ||
                        x.stride(0) * static_cast<std::int64_t>(dtype_size(x.dtype())) % 16 == 0));
}

inline bool same_matrix(const TensorView& a, const TensorView& b) {
  return a.rank() == 2 && b.rank() == 2 && a.dim(0) == b.dim(0) && a.dim(1) == b.dim(1);
}

// kSize elements, one access if `packed` and all of them lie before the end of the row; what lies
// behind it becomes `behind`.
template <class T>
__device__ __forceinline__ Pack<T> load_upto(const T* from, std::int64_t left, bool packed,
                                             T behind = T{}) {
  if (packed && left >= Pack<T>::kSize) return load_pack(from);
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) pack.at[i] = i < left ? from[i] : behind;
  return pack;
}
template <class T>
__device__ __forceinline__ void store_upto(T* to, const Pack<T>& pack, std::int64_t left,
                                           bool packed) {
  if (packed && left >= Pack<T>::kSize) {
    store_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    if (i < left) to[i] = pack.at[i];
  }
}

// What WarpPiece and the like are compiled for: rows that begin on 16 bytes and are whole packs
// long, and all others.
template <class T>
bool whole_packs(const TensorView& x) {
  return x.empty() || (rows_aligned(x) && x.dim(1) % Pack<T>::kSize == 0);
}
template <bool kPacked, class T>
__device__ __forceinline__ Pack<T> load_some(const T* from, std::int64_t left) {
  Pack<T> pack;
  if constexpr (kPacked) {
    if (left > 0) return load_pack(from);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.at[i] = T{};
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.at[i] = i < left ? from[i] : T{};
  }
  return pack;
}
template <bool kPacked, class T>
__device__ __forceinline__ void store_some(T* to, const Pack<T>& pack, std::int64_t left) {
  if constexpr (kPacked) {
    if (left > 0) store_pack(to, pack);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      if (i < left) to[i] = pack.at[i];
    }
  }
}

// kPacks packs a lane: 2 KiB of a row in registers of a warp, all of them on their way at once.
template <class T, bool kPacked>
struct WarpPiece {
  static constexpr int kPacks = 4, kSize = Pack<T>::kSize;
  static constexpr std::int64_t kElements = std::int64_t{kWarp} * kPacks * kSize;

  Pack<T> pack[kPacks];

  static __device__ __forceinline__ std::int64_t offset(int j) {
    return (j * kWarp + static_cast<int>(threadIdx.x) % kWarp) * kSize;
  }
  // Elements [first, first + kElements) of a row; zeros behind its end.
  __device__ __forceinline__ void load(const T* row, std::int64_t first, std::int64_t width) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const std::int64_t at = first + offset(j);
      pack[j] = load_some<kPacked>(row + at, width - at);
    }
  }
  __device__ __forceinline__ void store(T* row, std::int64_t first, std::int64_t width) const {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const std::int64_t at = first + offset(j);
      store_some<kPacked>(row + at, pack[j], width - at);
    }
  }
};

}  // namespace pg::model::cuda
