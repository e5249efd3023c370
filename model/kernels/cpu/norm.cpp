// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) with the residual add fused in.
//
// r is rounded to its storage type first and normalised as stored, so backward sees the same
// numbers. Statistics take two passes over the row, which the first has brought into the nearest
// cache: the sum of squares of (r - mean) has only positive, already centred terms, so it is right
// where E[r^2] - mean^2 would cancel, and costs less than Welford's division an element.
#include <cmath>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

using cpu::load;
using cpu::put;

// The operands of one call; each row is [C].
template <class T>
struct Forward {
  cpu::Rows<T> y, r, residual, x;
  cpu::Rows<cpu::acc_t<T>> stats;
  const T *gamma, *beta;  // beta may be null
  cpu::acc_t<T> eps;

  template <bool kCentred>
  void row(std::int64_t n) const {
    using A = cpu::acc_t<T>;
    const std::int64_t width = y.width;
    const T* in = residual[n];
    if (x.base != nullptr) {
      T* const sum = r[n];
      const T* const branch = x[n];
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) put(sum[c], load(in[c]) + load(branch[c]));
      in = sum;
    }
    const A count = static_cast<A>(width);
    A mean = 0;
    if constexpr (kCentred) {
      mean = cpu::lane_sum<A>(width, [&](std::int64_t c) { return load(in[c]); }) / count;
    }
    const A squares = cpu::lane_sum<A>(width, [&](std::int64_t c) {
      const A centred = load(in[c]) - mean;
      return centred * centred;
    });
    const A inverse = A{1} / std::sqrt(squares / count + eps);
    stats[n][0] = mean;
    stats[n][1] = inverse;
    T* const out = y[n];
    if (beta != nullptr) {
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) {
        put(out[c], (load(in[c]) - mean) * inverse * load(gamma[c]) + load(beta[c]));
      }
    } else {
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) {
        put(out[c], (load(in[c]) - mean) * inverse * load(gamma[c]));
      }
    }
  }
};

// With z = (r - mean) / std and h = dy * gamma:
//   dr += (h - mean(h) - z mean(h z)) / std   (RMSNorm: without mean(h))
//   dgamma += sum over rows of dy z,  dbeta += sum over rows of dy.
template <class T>
struct Backward {
  using A = cpu::acc_t<T>;
  cpu::Rows<T> dr, dy, r;
  cpu::Rows<A> stats;
  const T* gamma;

  // dgamma and dbeta (may be null) are a block's own sums.
  template <bool kCentred>
  void row(std::int64_t n, A* dgamma, A* dbeta) const {
    const std::int64_t width = dr.width;
    const A mean = stats[n][0], inverse = stats[n][1];
    const T *const out = dy[n], *const in = r[n];
    cpu::Lanes<A> h_sum, hz_sum;
    cpu::for_lanes<A>(width, [&](std::int64_t c, int lane) {
      const A d = load(out[c]);
      const A z = (load(in[c]) - mean) * inverse;
      const A h = d * load(gamma[c]);
      if constexpr (kCentred) h_sum.at[lane] += h;
      hz_sum.at[lane] += h * z;
      dgamma[c] += d * z;
    });
    if (dbeta != nullptr) {
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) dbeta[c] += load(out[c]);
    }
    const A count = static_cast<A>(width);
    const A h_mean = kCentred ? h_sum.total() / count : A{0};
    const A hz_mean = hz_sum.total() / count;
    T* const to = dr[n];
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      const A z = (load(in[c]) - mean) * inverse;
      const A h = load(out[c]) * load(gamma[c]);
      put(to[c], load(to[c]) + (h - h_mean - z * hz_mean) * inverse);
    }
  }
};

void check_rows(const TensorView& a, const TensorView& b) {
  PG_ASSERT(cpu::same_shape(a, b) && a.dtype() == b.dtype(), "{} and {}", a.text(), b.text());
}

void check_width(const TensorView& vector, const TensorView& matrix) {
  PG_ASSERT(vector.rank() == 1 && vector.dim(0) == matrix.dim(1), "{} for {}", vector.text(),
            matrix.text());
}

}  // namespace

void CpuKernels::norm_forward(NormKind kind, TensorView y, TensorView r, TensorView stats,
                              TensorView residual, TensorView x, TensorView gamma, TensorView beta,
                              double eps) {
  check_rows(y, residual);
  if (!x.empty()) {
    check_rows(x, residual);
    check_rows(r, residual);
  }
  PG_ASSERT(stats.rank() == 2 && stats.dim(0) == y.dim(0) && stats.dim(1) == 2, "stats {} y {}",
            stats.text(), y.text());
  check_width(gamma, y);
  if (!beta.empty()) check_width(beta, y);
  const bool centred = kind == NormKind::kLayerNorm;
  PG_ASSERT(centred || beta.empty(), "RMSNorm has no beta {}", beta.text());
  cpu::dispatch(y.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Forward<T> forward{cpu::Rows<T>(y),
                             cpu::Rows<T>(x.empty() ? TensorView() : r),
                             cpu::Rows<T>(residual),
                             cpu::Rows<T>(x),
                             cpu::Rows<A>(stats),
                             gamma.data<T>(),
                             beta.empty() ? nullptr : beta.data<T>(),
                             static_cast<A>(eps)};
    cpu::for_rows(y.dim(0), y.dim(1), [&](std::int64_t n) {
      if (centred) {
        forward.template row<true>(n);
      } else {
        forward.template row<false>(n);
      }
    });
  });
}

void CpuKernels::norm_backward(NormKind kind, TensorView dr, TensorView dgamma, TensorView dbeta,
                               TensorView dy, TensorView r, TensorView stats, TensorView gamma) {
  check_rows(dr, dy);
  check_rows(dr, r);
  PG_ASSERT(stats.rank() == 2 && stats.dim(0) == r.dim(0) && stats.dim(1) == 2, "stats {} r {}",
            stats.text(), r.text());
  check_width(gamma, r);
  check_width(dgamma, r);
  if (!dbeta.empty()) check_width(dbeta, r);
  const bool centred = kind == NormKind::kLayerNorm;
  PG_ASSERT(centred || dbeta.empty(), "RMSNorm has no beta {}", dbeta.text());

  const std::int64_t n = r.dim(0), width = r.dim(1);
  // At most 64 blocks, whatever the team: their sums meet in the order of the blocks.
  const std::int64_t block_rows = std::max<std::int64_t>(16, (n + 63) / 64);
  const std::int64_t blocks = (n + block_rows - 1) / block_rows;
  cpu::dispatch(r.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Backward<T> backward{cpu::Rows<T>(dr), cpu::Rows<T>(dy), cpu::Rows<T>(r),
                               cpu::Rows<A>(stats), gamma.data<T>()};
    A* const gamma_total = dgamma.data<A>();
    A* const beta_total = dbeta.empty() ? nullptr : dbeta.data<A>();
    const std::int64_t held = beta_total != nullptr ? 2 * width : width;
    const auto partial = std::make_unique_for_overwrite<A[]>(blocks * held);
#pragma omp parallel for schedule(static) if (n * width > cpu::kWorthATeam)
    for (std::int64_t b = 0; b < blocks; ++b) {
      A* const own_gamma = partial.get() + b * held;
      A* const own_beta = beta_total != nullptr ? own_gamma + width : nullptr;
      std::fill_n(own_gamma, held, A{0});
      for (std::int64_t i = b * block_rows; i < std::min(n, (b + 1) * block_rows); ++i) {
        if (centred) {
          backward.template row<true>(i, own_gamma, own_beta);
        } else {
          backward.template row<false>(i, own_gamma, own_beta);
        }
      }
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
      const A* const own_gamma = partial.get() + b * held;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) gamma_total[c] += own_gamma[c];
      if (beta_total == nullptr) continue;
      const A* const own_beta = own_gamma + width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) beta_total[c] += own_beta[c];
    }
  });
}

}  // namespace pg::model
