// Small matrix products for blocks of attention: C[M, lanes] = A[M, depth] B[depth, lanes], all
// operands in scratch memory of the accumulator type, B and C in rows of whole vectors, aligned.
// A tile of C stays in registers while the depth runs; A's elements are broadcast, so A needs no
// packing and may lie in either order. Not inlined on purpose: every caller gets the same
// instructions, hence the same bits.
#pragma once

#include <cstdint>

namespace pg::model::cpu {

#ifdef __AVX512F__
inline constexpr int kVectorBytes = 64, kTileRows = 8;  // 16 of 32 registers accumulate
#else
inline constexpr int kVectorBytes = 32, kTileRows = 6;  // 12 of 16
#endif

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes), may_alias));
};

template <class A>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

enum class Order { kRows, kColumns };          // A(m, k) at a[m * lda + k], or at a[k * lda + m]
enum class Into { kAssign, kAdd, kScaleAdd };  // C = AB, C += AB, C = C scale[lane] + AB

template <class A>
struct Product {
  A* c;
  std::int64_t ldc;
  const A* a;
  std::int64_t lda;
  const A* b;
  std::int64_t ldb;
  std::int64_t depth;
  const A* scale = nullptr;  // [lanes], for kScaleAdd
};

namespace detail {

template <class A, Order order, Into into, int kRows, int kVectors>
[[gnu::always_inline]] inline void product_tile(const Product<A>& p, std::int64_t row,
                                                std::int64_t lane) {
  using Vector = typename VectorOf<A>::type;
  Vector sums[kRows][kVectors] = {};
  const A* a = p.a + row * (order == Order::kRows ? p.lda : 1);
  const A* b = p.b + lane;
  for (std::int64_t k = 0; k < p.depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      right[v] = *reinterpret_cast<const Vector*>(b + v * kLanes<A>);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const A left = order == Order::kRows ? a[m * p.lda] : a[m];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[m][v] += left * right[v];
    }
    a += order == Order::kRows ? 1 : p.lda;
    b += p.ldb;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      auto& c = *reinterpret_cast<Vector*>(p.c + (row + m) * p.ldc + lane + v * kLanes<A>);
      if constexpr (into == Into::kAssign) {
        c = sums[m][v];
      } else if constexpr (into == Into::kAdd) {
        c += sums[m][v];
      } else {
        const A* scale = p.scale + lane + v * kLanes<A>;
        c = c * *reinterpret_cast<const Vector*>(scale) + sums[m][v];
      }
    }
  }
}

template <class A, Order order, Into into, int kRows>
[[gnu::always_inline]] inline void product_rest(const Product<A>& p, std::int64_t row, int rest,
                                                std::int64_t lane, bool two) {
  if constexpr (kRows > 0) {
    if (rest != kRows) return product_rest<A, order, into, kRows - 1>(p, row, rest, lane, two);
    if (two) {
      product_tile<A, order, into, kRows, 2>(p, row, lane);
    } else {
      product_tile<A, order, into, kRows, 1>(p, row, lane);
    }
  }
}

}  // namespace detail

// `lanes` is a multiple of kLanes<A>.
template <class A, Order order, Into into>
[[gnu::noinline]] void multiply(const Product<A>& p, std::int64_t rows, std::int64_t lanes) {
  for (std::int64_t lane = 0; lane < lanes; lane += 2 * kLanes<A>) {
    const bool two = lane + kLanes<A> < lanes;
    std::int64_t row = 0;
    for (; row + kTileRows <= rows; row += kTileRows) {
      detail::product_rest<A, order, into, kTileRows>(p, row, kTileRows, lane, two);
    }
    detail::product_rest<A, order, into, kTileRows - 1>(p, row, static_cast<int>(rows - row), lane,
                                                        two);
  }
}

}  // namespace pg::model::cpu
