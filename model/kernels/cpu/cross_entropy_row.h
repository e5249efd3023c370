// The log-sum-exp of one row of logits, which the fused and the vocabulary-parallel cross-entropy
// share. A row is read from memory once, in blocks that stay in the nearest cache: the maximum
// first, then exponentials below it, summed and, if asked, kept; when a later block raises the
// maximum, the sum is rescaled.
//
// A NaN never raises the maximum but always enters the sum, so a row that holds one has a NaN loss
// and a NaN gradient; so has a row with +inf. Single logits of -inf are fine.
#pragma once

#include <cmath>
#include <limits>

#include "model/kernels/cpu/elements.h"
#include "model/kernels/cpu/simd_math.h"

namespace pg::model::cpu {

// 64 additions a lane: 64 roundings at most before fp64.
inline constexpr std::int64_t kBlock = 2048;

constexpr std::int64_t blocks_of(std::int64_t n) {
  return (n + kBlock - 1) / kBlock;
}

// log(sum of exp(x)) = shift + log(sum).
struct LogSumExp {
  double top, shift, sum;  // the largest x, -inf if all are -inf or NaN; sum of exp(x - shift)
};

// While all logits are -inf the shift is 0: -inf - (-inf) would be NaN.
inline double shift_below(double top) {
  return top == -std::numeric_limits<double>::infinity() ? 0.0 : top;
}

// Unless `kept` is null: kept[i] = exp(x[i] - shifts[i / kBlock]). `kept` may be x. Not inline: GCC
// 12 makes worse code of it inside its caller (5 % slower in fp64).
template <class A>
[[gnu::noinline]] LogSumExp log_sum_exp(const A* x, A* kept, A* shifts, std::int64_t n) {
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  A top = kLowest, shift = 0;
  double sum = 0.0;
  for (std::int64_t b = 0; b < blocks_of(n); ++b) {
    const A* const block = x + b * kBlock;
    const std::int64_t size = std::min(kBlock, n - b * kBlock);
    Lanes<A> highest;
    std::fill_n(highest.at, highest.kCount, kLowest);
    for_lanes<A>(size, [&](std::int64_t i, int lane) {
      highest.at[lane] = block[i] > highest.at[lane] ? block[i] : highest.at[lane];
    });
    const A block_top = *std::max_element(highest.at, highest.at + highest.kCount);
    if (block_top > top) {
      sum *= std::exp(static_cast<double>(top) - static_cast<double>(block_top));
      top = shift = block_top;
    }
    const A below = shift;
    if (kept == nullptr) {
      sum += static_cast<double>(
          lane_sum<A>(size, [=](std::int64_t i) { return simd_exp(block[i] - below); }));
    } else {
      A* const out = kept + b * kBlock;
      shifts[b] = below;
      sum += static_cast<double>(
          lane_sum<A>(size, [=](std::int64_t i) { return out[i] = simd_exp(block[i] - below); }));
    }
  }
  return {static_cast<double>(top), static_cast<double>(shift), sum};
}

}  // namespace pg::model::cpu
