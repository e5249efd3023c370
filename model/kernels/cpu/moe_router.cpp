// What stands between the router's logits and the gates: softmax, gates, the gradients of both and
// of the load-balance loss, and the sums that the losses and reports are made of. Rows are short (a
// few experts to some hundreds) and independent, but for the statistics.
#include <algorithm>
#include <cmath>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/cross_entropy_row.h"
#include "model/kernels/cpu/moe_views.h"

namespace pg::model {

namespace {

using cpu::check_same;
using cpu::check_vector;
using cpu::Rows;

// The sum of p over the chosen experts. All the chosen probabilities may underflow to 0 (when a
// bias chose experts that the router itself rules out): a token's gates are then 0, not NaN, and so
// is their gradient.
template <class A>
A chosen_sum(const A* p, const std::uint8_t* chosen, std::int64_t experts) {
  return cpu::lane_sum<A>(experts, [&](std::int64_t e) { return chosen[e] != 0 ? p[e] : A{0}; });
}
template <class A>
A inverse_or_zero(A sum) {
  return sum == A{0} ? A{0} : A{1} / sum;
}

}  // namespace

void CpuKernels::moe_softmax(TensorView probs, TensorView lse, TensorView logits) {
  check_same(probs, logits);
  check_vector(lse, logits.dim(0));
  constexpr std::int64_t kMostBlocks = 8;
  const std::int64_t blocks = cpu::blocks_of(logits.dim(1));
  PG_ASSERT(blocks <= kMostBlocks, "{} experts", logits.dim(1));
  cpu::dispatch_accumulator(logits.dtype(), [&]<class A>() {
    const Rows<A> out(probs), in(logits);
    A* const total = lse.data<A>();
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      A* const p = out[n];
      A shifts[kMostBlocks];
      const cpu::LogSumExp row = cpu::log_sum_exp(in[n], p, shifts, in.width);
      total[n] = static_cast<A>(row.shift + std::log(row.sum));
      for (std::int64_t b = 0; b < blocks; ++b) {  // each has a shift of its own
        const auto scale =
            static_cast<A>(std::exp(static_cast<double>(shifts[b]) - row.shift) / row.sum);
        const std::int64_t end = std::min(in.width, (b + 1) * cpu::kBlock);
#pragma omp simd
        for (std::int64_t e = b * cpu::kBlock; e < end; ++e) p[e] *= scale;
      }
    });
  });
}

void CpuKernels::moe_softmax_backward(TensorView dlogits, TensorView dprobs, TensorView probs,
                                      TensorView lse, double z_scale) {
  check_same(dlogits, probs);
  check_same(dprobs, probs);
  check_vector(lse, probs.dim(0));
  cpu::dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const Rows<A> out(dlogits), given(dprobs), in(probs);
    const A* const total = lse.data<A>();
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      A* const dx = out[n];
      const A *const dp = given[n], *const p = in[n];
      const A mean = cpu::lane_sum<A>(in.width, [&](std::int64_t e) { return p[e] * dp[e]; });
      const A z = static_cast<A>(2.0 * z_scale * static_cast<double>(total[n]));
#pragma omp simd
      for (std::int64_t e = 0; e < in.width; ++e) dx[e] = p[e] * ((dp[e] - mean) + z);
    });
  });
}

void CpuKernels::moe_gates(TensorView gates, TensorView probs, TensorView chosen, TensorView kept,
                           bool renormalize) {
  for (const TensorView& x : {gates, chosen, kept}) check_same(x, probs);
  cpu::dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const Rows<A> out(gates), in(probs);
    const Rows<std::uint8_t> choice(chosen), keep(kept);
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      A* const gate = out[n];
      const A* const p = in[n];
      const std::uint8_t* const is_kept = keep[n];
      const A scale = renormalize ? inverse_or_zero(chosen_sum(p, choice[n], in.width)) : A{1};
#pragma omp simd
      for (std::int64_t e = 0; e < in.width; ++e) gate[e] = is_kept[e] != 0 ? p[e] * scale : A{0};
    });
  });
}

// With S the sum of the chosen and g = p / S of the kept: dp = ([kept] dg - sum_kept dg g) / S for
// all the chosen.
void CpuKernels::moe_gates_backward(TensorView dprobs, TensorView dgates, TensorView probs,
                                    TensorView chosen, TensorView kept, bool renormalize) {
  for (const TensorView& x : {dprobs, dgates, chosen, kept}) check_same(x, probs);
  cpu::dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const Rows<A> out(dprobs), given(dgates), in(probs);
    const Rows<std::uint8_t> choice(chosen), keep(kept);
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      A* const dp = out[n];
      const A *const dg = given[n], *const p = in[n];
      const std::uint8_t *const is_chosen = choice[n], *const is_kept = keep[n];
      if (!renormalize) {
#pragma omp simd
        for (std::int64_t e = 0; e < in.width; ++e) dp[e] += is_kept[e] != 0 ? dg[e] : A{0};
        return;
      }
      const A scale = inverse_or_zero(chosen_sum(p, is_chosen, in.width));
      const A mean = scale * cpu::lane_sum<A>(in.width, [&](std::int64_t e) {
                       return is_kept[e] != 0 ? dg[e] * p[e] : A{0};
                     });
#pragma omp simd
      for (std::int64_t e = 0; e < in.width; ++e) {
        const A own = is_kept[e] != 0 ? dg[e] : A{0};
        dp[e] += is_chosen[e] != 0 ? (own - mean) * scale : A{0};
      }
    });
  });
}

void CpuKernels::moe_balance_backward(TensorView dprobs, TensorView counts, double factor) {
  PG_ASSERT(dprobs.rank() == 2 && counts.rank() == 2 && counts.dim(0) > 0 &&
                counts.dim(1) == dprobs.dim(1) && dprobs.dim(0) % counts.dim(0) == 0,
            "dprobs {} counts {}", dprobs.text(), counts.text());
  const std::int64_t rows = dprobs.dim(0) / counts.dim(0);
  cpu::dispatch_accumulator(dprobs.dtype(), [&]<class A>() {
    const Rows<A> out(dprobs);
    const Rows<double> by_sequence(counts);
    cpu::for_rows(out.n, out.width, [&](std::int64_t n) {
      A* const dp = out[n];
      const double* const count = by_sequence[n / rows];
#pragma omp simd
      for (std::int64_t e = 0; e < out.width; ++e) {
        dp[e] = static_cast<A>(static_cast<double>(dp[e]) + factor * count[e]);
      }
    });
  });
}

void CpuKernels::moe_statistics(TensorView stats, TensorView chosen, TensorView probs,
                                TensorView lse) {
  check_same(chosen, probs);
  check_vector(lse, probs.dim(0));
  const std::int64_t experts = probs.dim(1);
  PG_ASSERT(stats.rank() == 2 && stats.dim(0) > 0 && stats.dim(1) == 2 * experts + 1 &&
                probs.dim(0) % stats.dim(0) == 0,
            "stats {} probs {}", stats.text(), probs.text());
  const std::int64_t rows = probs.dim(0) / stats.dim(0);
  cpu::dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const Rows<double> out(stats);
    const Rows<A> in(probs);
    const Rows<std::uint8_t> choice(chosen);
    const A* const total = lse.data<A>();
    constexpr std::int64_t kPiece = 16;  // a cache line of probabilities
    cpu::for_columns<kPiece>(
        out.n, rows, experts, [&](std::int64_t b, std::int64_t first, std::int64_t width) {
          double counts[kPiece] = {}, sums[kPiece] = {};
          for (std::int64_t n = b * rows; n < (b + 1) * rows; ++n) {
            const A* const p = in[n] + first;
            const std::uint8_t* const is_chosen = choice[n] + first;
#pragma omp simd
            for (std::int64_t e = 0; e < width; ++e) {
              counts[e] += is_chosen[e] != 0 ? 1.0 : 0.0;
              sums[e] += static_cast<double>(p[e]);
            }
          }
          std::copy_n(counts, width, out[b] + first);
          std::copy_n(sums, width, out[b] + experts + first);
          if (first != 0) return;
          out[b][2 * experts] = cpu::lane_sum<double>(rows, [&](std::int64_t i) {
            const auto z = static_cast<double>(total[b * rows + i]);
            return z * z;
          });
        });
  });
}

}  // namespace pg::model
