// Moving tokens to the rows that experts work on and back. A row belongs to one pair of token and
// expert, so every element of a result is written by one thread, and its terms are added in
// ascending order of the experts.
#include <cstring>
#include <limits>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/moe_views.h"

namespace pg::model {

namespace {

using cpu::load;
using cpu::put;
using cpu::Rows;

// tokens[N,C] and slots[A,C] of one type, rows[N,E], and gates[N,E] unless empty.
void check_moves(const TensorView& tokens, const TensorView& slots, const TensorView& rows,
                 const TensorView& gates) {
  PG_ASSERT(tokens.rank() == 2 && slots.rank() == 2 && tokens.dim(1) == slots.dim(1) &&
                tokens.dtype() == slots.dtype(),
            "{} and {}", tokens.text(), slots.text());
  PG_ASSERT(rows.rank() == 2 && rows.dim(0) == tokens.dim(0), "rows {} for {}", rows.text(),
            tokens.text());
  if (!gates.empty()) cpu::check_same(gates, rows);
}

}  // namespace

void CpuKernels::moe_rows(TensorView rows, std::span<std::int64_t> counts, TensorView kept) {
  cpu::check_same(rows, kept);
  const Rows<std::int32_t> out(rows);
  const Rows<std::uint8_t> keep(kept);
  const std::int64_t experts = keep.width;
  PG_ASSERT(std::ssize(counts) == experts, "{} counts for {}", counts.size(), kept.text());
  // Each block of tokens counts its pairs, the blocks' counts become its first rows, and then each
  // block numbers its own.
  constexpr std::int64_t kBlock = 256;
  const std::int64_t blocks = (keep.n + kBlock - 1) / kBlock;
  const bool team = keep.n * experts > cpu::kWorthATeam;
  std::vector<std::int32_t> next(blocks * experts, 0);
  const auto tokens_of = [&](std::int64_t b) { return std::min(keep.n, (b + 1) * kBlock); };
#pragma omp parallel for schedule(static) if (team)
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::int32_t* const count = next.data() + b * experts;
    for (std::int64_t n = b * kBlock; n < tokens_of(b); ++n) {
      const std::uint8_t* const is_kept = keep[n];
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e) count[e] += is_kept[e] != 0;
    }
  }
  std::int64_t row = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t first = row;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int32_t count = next[b * experts + e];
      next[b * experts + e] = static_cast<std::int32_t>(row);
      row += count;
    }
    counts[e] = row - first;
  }
  PG_ASSERT(row <= std::numeric_limits<std::int32_t>::max(), "{} pairs in {}", row, kept.text());
#pragma omp parallel for schedule(static) if (team)
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::int32_t* const free = next.data() + b * experts;
    for (std::int64_t n = b * kBlock; n < tokens_of(b); ++n) {
      const std::uint8_t* const is_kept = keep[n];
      std::int32_t* const to = out[n];
#pragma omp simd
      for (std::int64_t e = 0; e < experts; ++e) {
        to[e] = is_kept[e] != 0 ? free[e] : -1;
        free[e] += is_kept[e] != 0;
      }
    }
  }
}

void CpuKernels::moe_dispatch(TensorView to, TensorView x, TensorView rows, TensorView gates) {
  check_moves(x, to, rows, gates);
  cpu::dispatch(x.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Rows<T> out(to), in(x);
    const Rows<std::int32_t> slot(rows);
    const Rows<A> gate(gates);
    cpu::for_rows(in.n, in.width, [&](std::int64_t n) {
      const T* const from = in[n];
      for (std::int64_t e = 0; e < slot.width; ++e) {
        const std::int32_t row = slot[n][e];
        if (row < 0) continue;
        if (gate.base == nullptr) {
          std::memcpy(out[row], from, static_cast<std::size_t>(in.width) * sizeof(T));
          continue;
        }
        T* const scaled = out[row];
        const A factor = gate[n][e];
#pragma omp simd
        for (std::int64_t c = 0; c < in.width; ++c) put(scaled[c], load(from[c]) * factor);
      }
    });
  });
}

void CpuKernels::moe_combine(TensorView y, TensorView from, TensorView rows, TensorView gates,
                             bool accumulate) {
  check_moves(y, from, rows, gates);
  cpu::dispatch(y.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Rows<T> out(y), in(from);
    const Rows<std::int32_t> slot(rows);
    const Rows<A> gate(gates);
    cpu::for_rows(out.n, out.width, [&](std::int64_t n) {
      constexpr std::int64_t kPiece = 512;  // the sums of so many channels stay in the cache
      A sums[kPiece];
      for (std::int64_t first = 0; first < out.width; first += kPiece) {
        const std::int64_t size = std::min(kPiece, out.width - first);
        std::fill_n(sums, size, A{0});
        for (std::int64_t e = 0; e < slot.width; ++e) {
          const std::int32_t row = slot[n][e];
          if (row < 0) continue;
          const T* const term = in[row] + first;
          const A factor = gate.base == nullptr ? A{1} : gate[n][e];
#pragma omp simd
          for (std::int64_t c = 0; c < size; ++c) sums[c] += load(term[c]) * factor;
        }
        T* const to = out[n] + first;
        if (accumulate) {
#pragma omp simd
          for (std::int64_t c = 0; c < size; ++c) put(to[c], load(to[c]) + sums[c]);
        } else {
#pragma omp simd
          for (std::int64_t c = 0; c < size; ++c) put(to[c], sums[c]);
        }
      }
    });
  });
}

void CpuKernels::moe_gate_gradient(TensorView dgates, TensorView dy, TensorView from,
                                   TensorView rows) {
  check_moves(dy, from, rows, dgates);
  cpu::dispatch(dy.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Rows<A> out(dgates);
    const Rows<T> given(dy), in(from);
    const Rows<std::int32_t> slot(rows);
    cpu::for_rows(given.n, given.width, [&](std::int64_t n) {
      const T* const d = given[n];
      for (std::int64_t e = 0; e < slot.width; ++e) {
        const std::int32_t row = slot[n][e];
        A sum = 0;
        if (row >= 0) {
          const T* const term = in[row];
          sum = cpu::lane_sum<A>(given.width,
                                 [&](std::int64_t c) { return load(d[c]) * load(term[c]); });
        }
        out[n][e] = sum;
      }
    });
  });
}

}  // namespace pg::model
