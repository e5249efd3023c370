// What the memory-bound kernels share: stores that vectorise, loops cut into pieces, and sums whose
// order is fixed.
//
// A piece's size never depends on the thread count, so an element sits at the same place of its
// vector loop with any team, and sums keep one accumulator per lane and meet in a fixed tree: the
// bits of a result depend on the sizes alone, not on threads, addresses or the width of a register.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/kernels/cpu/dispatch.h"
#include "model/tensor.h"

namespace pg::model::cpu {

// to = round(x). A bf16 goes through its bits: GCC 12 vectorises that, but not a store of the whole
// struct.
template <class T>
inline void put(T& to, acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    to.bits = bf16(x).bits;
  } else {
    to = x;
  }
}

// Between any two compute types; fp64 reaches bf16 through fp32 (two roundings).
template <class To, class From>
inline void convert(To& to, From from) {
  put(to, static_cast<acc_t<To>>(static_cast<acc_t<From>>(from)));
}

// The rows of a matrix view [n, width] whose rows may lie further apart than they are wide.
template <class T>
struct Rows {
  T* base = nullptr;
  std::int64_t n = 0, width = 0, stride = 0;

  explicit Rows(const TensorView& view) {
    if (view.empty()) return;
    PG_ASSERT(view.rank() == 2, "{} is not a matrix", view.text());
    base = view.data<T>();
    n = view.dim(0);
    width = view.dim(1);
    stride = view.stride(0);
  }
  T* operator[](std::int64_t row) const { return base + row * stride; }
};

// Below this many elements a team costs more than it brings.
inline constexpr std::int64_t kWorthATeam = 16384;

// work(row) for each of n rows of `width` elements, in parallel; work must touch its own row only.
template <class Work>
void for_rows(std::int64_t n, std::int64_t width, const Work& work) {
#pragma omp parallel for schedule(static) if (n * width > kWorthATeam)
  for (std::int64_t row = 0; row < n; ++row) work(row);
}

// work(begin, end) for consecutive pieces of [0, n), in parallel.
template <class Work>
void for_pieces(std::int64_t n, const Work& work) {
  constexpr std::int64_t kPiece = 16384;
  const std::int64_t pieces = (n + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (n > kWorthATeam)
  for (std::int64_t p = 0; p < pieces; ++p) work(p * kPiece, std::min(n, (p + 1) * kPiece));
}

// One accumulator per lane. Element i of a run belongs to lane i % kCount.
template <class A>
struct alignas(64) Lanes {
  static constexpr int kCount = 32;
  A at[kCount] = {};

  A total() {
    for (int width = kCount / 2; width > 0; width /= 2) {
      for (int lane = 0; lane < width; ++lane) at[lane] += at[lane + width];
    }
    return at[0];
  }
};

// step(i, lane) for i in [0, n), lane = i % kCount; the inner loop becomes a few vector operations
// and the lanes live in registers.
template <class A, class Step>
inline void for_lanes(std::int64_t n, const Step& step) {
  constexpr int kCount = Lanes<A>::kCount;
  std::int64_t i = 0;
  for (; i + kCount <= n; i += kCount) {
#pragma omp simd
    for (int lane = 0; lane < kCount; ++lane) step(i + lane, lane);
  }
  for (int lane = 0; i < n; ++i, ++lane) step(i, lane);
}

// The sum of term(i) for i in [0, n).
template <class A, class Term>
inline A lane_sum(std::int64_t n, const Term& term) {
  Lanes<A> sum;
  for_lanes<A>(n, [&](std::int64_t i, int lane) { sum.at[lane] += term(i); });
  return sum.total();
}

inline bool same_shape(const TensorView& a, const TensorView& b) {
  if (a.rank() != b.rank()) return false;
  for (int axis = 0; axis < a.rank(); ++axis) {
    if (a.dim(axis) != b.dim(axis)) return false;
  }
  return true;
}

}  // namespace pg::model::cpu
