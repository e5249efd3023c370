// Which tokens go to which experts. Choices are exact in number whatever the scores are: a NaN
// counts as -inf, so that the sizes everything else depends on stay right until the loss, which is
// NaN as well, ends the run.
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/moe_views.h"

namespace pg::model {

namespace {

using cpu::Rows;
using cpu::Sequences;

template <class A>
A nan_is_lowest(A x) {
  return x == x ? x : -std::numeric_limits<A>::infinity();
}

// Rounded to half of the significant bits, to nearest: 12 of 24, 26 of 53.
template <class A>
A half_precise(A x) {
  using Bits = std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t>;
  constexpr int kDropped = sizeof(A) == 8 ? 27 : 12;
  if (!std::isfinite(x)) return x;
  const auto bits = std::bit_cast<Bits>(x) + (Bits{1} << (kDropped - 1));
  return std::bit_cast<A>(bits >> kDropped << kDropped);
}

// The k best so far of a row, best first; of equal scores the earlier one.
struct Best {
  double* score;
  std::int64_t* expert;
  std::int64_t k, held = 0;

  void offer(double x, std::int64_t e) {
    if (held == k && !(x > score[k - 1])) return;
    std::int64_t at = held < k ? held++ : k - 1;
    for (; at > 0 && x > score[at - 1]; --at) {
      score[at] = score[at - 1];
      expert[at] = expert[at - 1];
    }
    score[at] = x;
    expert[at] = e;
  }
};

// set[t] = 1 for the `count` largest of scores[t], of equal ones the earliest; `work` has room for
// all. Selects the smallest that is still chosen instead of sorting.
template <class A, class Set>
void choose_largest(const A* scores, A* work, std::int64_t n, std::int64_t count, const Set& set) {
  if (count == 0) return;
  std::copy_n(scores, n, work);
  std::nth_element(work, work + (count - 1), work + n, std::greater<>());
  const A last = work[count - 1];
  // nth_element leaves nothing smaller in front, so the rest of the count are equal to `last`.
  std::int64_t equal = count - std::count_if(work, work + count, [&](A x) { return x > last; });
  for (std::int64_t t = 0; t < n; ++t) {
    if (scores[t] > last || (scores[t] == last && equal-- > 0)) set(t);
  }
}

}  // namespace

void CpuKernels::moe_choose_experts(TensorView chosen, TensorView probs, TensorView bias,
                                    std::int64_t k) {
  cpu::check_same(chosen, probs);
  const std::int64_t experts = probs.dim(1);
  PG_ASSERT(k >= 0 && k <= experts, "{} of {} experts", k, experts);
  // Scores are added and compared in fp64: exact for fp32, so no two become equal by rounding.
  std::vector<double> added(experts, 0.0);
  if (!bias.empty()) {
    cpu::check_vector(bias, experts);
    cpu::dispatch(bias.dtype(), [&]<class T>() {
      for (std::int64_t e = 0; e < experts; ++e) {
        added[e] = static_cast<double>(cpu::load(bias.data<T>()[e]));
      }
    });
  }
  if (k == 0) return fill_zero(chosen);
  cpu::dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const Rows<A> in(probs);
    const Rows<std::uint8_t> out(chosen);
#pragma omp parallel if (in.n * in.width > cpu::kWorthATeam)
    {
      std::vector<double> score(k);
      std::vector<std::int64_t> expert(k);
#pragma omp for schedule(static)
      for (std::int64_t n = 0; n < in.n; ++n) {
        Best best{score.data(), expert.data(), k};
        const A* const p = in[n];
        for (std::int64_t e = 0; e < experts; ++e) {
          best.offer(nan_is_lowest(static_cast<double>(p[e]) + added[e]), e);
        }
        std::memset(out[n], 0, static_cast<std::size_t>(experts));
        for (std::int64_t i = 0; i < k; ++i) out[n][expert[i]] = 1;
      }
    }
  });
}

void CpuKernels::moe_choose_tokens(TensorView chosen, TensorView scores, std::int64_t count) {
  const Sequences<std::uint8_t> out(chosen);
  PG_ASSERT(cpu::same_shape(chosen, scores), "chosen {} scores {}", chosen.text(), scores.text());
  PG_ASSERT(count >= 0 && count <= out.rows, "{} tokens of {}", count, scores.text());
  cpu::dispatch_accumulator(scores.dtype(), [&]<class A>() {
    const Sequences<A> in(scores);
    // Experts are gathered a cache line at a time, each into a flat column.
    constexpr std::int64_t kPiece = 16;
    const std::int64_t length = in.rows;
    cpu::for_columns<kPiece>(
        in.n, length, in.width, [&](std::int64_t b, std::int64_t first, std::int64_t width) {
          std::vector<A> columns(width * length), work(length);
          for (std::int64_t t = 0; t < length; ++t) {
            const A* const row = in.at(b, t) + first;
            for (std::int64_t e = 0; e < width; ++e) {
              columns[e * length + t] = half_precise(nan_is_lowest(row[e]));
            }
            std::memset(out.at(b, t) + first, 0, static_cast<std::size_t>(width));
          }
          for (std::int64_t e = 0; e < width; ++e) {
            choose_largest(columns.data() + e * length, work.data(), length, count,
                           [&](std::int64_t t) { out.at(b, t)[first + e] = 1; });
          }
        });
  });
}

void CpuKernels::moe_count(TensorView counts, TensorView mask) {
  const Sequences<std::uint8_t> in(mask);
  PG_ASSERT(counts.rank() == 2 && counts.dim(0) == in.n && counts.dim(1) == in.width,
            "counts {} mask {}", counts.text(), mask.text());
  const Rows<double> out(counts);
  constexpr std::int64_t kPiece = 64;
  cpu::for_columns<kPiece>(in.n, in.rows, in.width,
                           [&](std::int64_t b, std::int64_t first, std::int64_t width) {
                             std::int64_t count[kPiece] = {};
                             for (std::int64_t r = 0; r < in.rows; ++r) {
                               const std::uint8_t* const row = in.at(b, r) + first;
#pragma omp simd
                               for (std::int64_t e = 0; e < width; ++e) count[e] += row[e] != 0;
                             }
                             std::copy_n(count, width, out[b] + first);
                           });
}

void CpuKernels::moe_drop(TensorView mask, TensorView before, std::int64_t capacity) {
  const Sequences<std::uint8_t> inout(mask);
  PG_ASSERT(before.rank() == 2 && before.dim(0) == inout.n && before.dim(1) == inout.width,
            "before {} mask {}", before.text(), mask.text());
  const Rows<double> ahead(before);
  constexpr std::int64_t kPiece = 64;
  cpu::for_columns<kPiece>(inout.n, inout.rows, inout.width,
                           [&](std::int64_t b, std::int64_t first, std::int64_t width) {
                             // Who asked, whether kept or not: a token that was dropped still is
                             // ahead of the next.
                             std::int64_t asked[kPiece] = {};
                             std::copy_n(ahead[b] + first, width, asked);
                             for (std::int64_t r = 0; r < inout.rows; ++r) {
                               std::uint8_t* const row = inout.at(b, r) + first;
#pragma omp simd
                               for (std::int64_t e = 0; e < width; ++e) {
                                 const bool asks = row[e] != 0;
                                 row[e] = asks && asked[e] < capacity ? 1 : 0;
                                 asked[e] += asks;
                               }
                             }
                           });
}

}  // namespace pg::model
