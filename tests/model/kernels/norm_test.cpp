#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/gradient_check.h"
#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr double kEps = 1e-5;
constexpr NormKind kKinds[] = {NormKind::kRmsNorm, NormKind::kLayerNorm};
constexpr std::int64_t kWidths[] = {1, 3, 17, 255, 257, 768};

// One norm with all its operands. Rows are padded by different amounts.
template <class T>
struct Case {
  using A = acc_of<T>;
  NormKind kind;
  Matrix<T> y, r, residual, x, gamma, beta, dy, dr;
  Matrix<A> stats, dgamma, dbeta;

  Case(NormKind k, std::int64_t n, std::int64_t width, double mean = 0.25)
      : kind(k),
        y(n, width, 1),
        r(n, width, 2),
        residual(Matrix<T>::random("residual", n, width, 3, mean)),
        x(Matrix<T>::random("x", n, width)),
        gamma(Matrix<T>::random("gamma", 1, width, 0, 1.0, 0.1)),
        beta(Matrix<T>::random("beta", 1, width)),
        dy(Matrix<T>::random("dy", n, width, 4)),
        dr(Matrix<T>::random("dr", n, width)),
        stats(n, 2),
        dgamma(Matrix<A>::random("dgamma", 1, width)),
        dbeta(Matrix<A>::random("dbeta", 1, width)) {}

  bool centred() const { return kind == NormKind::kLayerNorm; }
  void forward(Kernels& kernels) {
    kernels.norm_forward(kind, y.view(), r.view(), stats.view(), residual.view(), x.view(),
                         gamma.flat(), centred() ? beta.flat() : TensorView(), kEps);
  }
  void backward(Kernels& kernels) {
    kernels.norm_backward(kind, dr.view(), dgamma.flat(), centred() ? dbeta.flat() : TensorView(),
                          dy.view(), r.view(), stats.view(), gamma.flat());
  }
};

// Mean and 1/std of a row of r, plainly.
struct RowStatistics {
  double mean = 0.0, inverse = 0.0, absolute = 0.0;  // absolute: mean of |r|
};

template <class T>
RowStatistics statistics(const Case<T>& c, std::int64_t i) {
  const std::int64_t width = c.r.width;
  long double sum = 0, absolute = 0, squares = 0;
  for (std::int64_t j = 0; j < width; ++j) {
    sum += c.r(i, j);
    absolute += std::fabs(c.r(i, j));
  }
  const long double mean = c.centred() ? sum / width : 0.0L;
  for (std::int64_t j = 0; j < width; ++j) squares += (c.r(i, j) - mean) * (c.r(i, j) - mean);
  return {static_cast<double>(mean), static_cast<double>(1.0L / std::sqrt(squares / width + kEps)),
          static_cast<double>(absolute / width)};
}

template <class T>
class Norm : public ::testing::Test {};
TYPED_TEST_SUITE(Norm, ComputeTypes);

// Errors: the mean is off by k u mean|r| (k: the sum's roundings), which moves every centred value
// as much; 1/std is off by (k/2 + 4) u relative, plus what the mean's error does to the squares
// (second order); the remaining five operations round once each. So, with z = (r - mean) / std,
//   |y error| <= u_store |y| + u |gamma| ((2k + 8) / std (|r| + mean|r|)) + u |beta|.
TYPED_TEST(Norm, forward_matches_the_definition) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    for (const std::int64_t width : kWidths) {
      Case<TypeParam> c(kind, 37, width);
      c.forward(*kernels);
      const double k = lane_roundings(width);
      for (std::int64_t i = 0; i < 37; ++i) {
        const RowStatistics s = statistics(c, i);
        expect_close(c.stats.at(i, 0), s.mean, s.absolute, k, "mean" + place(i, 0));
        expect_close(c.stats.at(i, 1), s.inverse, s.inverse,
                     (2 * k + 8) * (1 + s.absolute * s.inverse), "1/std" + place(i, 1));
        for (std::int64_t j = 0; j < width; ++j) {
          // The sum is rounded to storage before anything is computed from it.
          ASSERT_EQ(
              c.r(i, j),
              value(static_cast<TypeParam>(static_cast<acc_of<TypeParam>>(c.residual.at(i, j)) +
                                           static_cast<acc_of<TypeParam>>(c.x.at(i, j)))));
          const double b = c.centred() ? c.beta(0, j) : 0.0;
          const double want = (c.r(i, j) - s.mean) * s.inverse * c.gamma(0, j) + b;
          const double size = std::fabs(c.gamma(0, j)) * s.inverse *
                                  (std::fabs(c.r(i, j)) + s.absolute) *
                                  (1 + s.absolute * s.inverse) +
                              std::fabs(b);
          expect_close(c.y.at(i, j), want, size, 2 * k + 8, "y" + place(i, j));
        }
      }
      EXPECT_TRUE(c.y.padding_is_untouched() && c.r.padding_is_untouched());
    }
  }
}

// dr: k roundings in each mean, relative to the mean of the absolute terms, and 12 for the rest.
// dgamma, dbeta: 37 rows are three blocks of 16, so 16 additions, 3 combinations, 4 for the term.
TYPED_TEST(Norm, backward_matches_the_definition_and_adds) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    for (const std::int64_t width : kWidths) {
      Case<TypeParam> c(kind, 37, width);
      c.forward(*kernels);
      const auto before = c;
      c.backward(*kernels);
      const double k = lane_roundings(width);
      std::vector<double> dgamma(width), dgamma_size(width), dbeta(width), dbeta_size(width);
      for (std::int64_t i = 0; i < 37; ++i) {
        const double mean = c.stats(i, 0), inverse = c.stats(i, 1);
        long double h = 0, h_size = 0, hz = 0, hz_size = 0;
        const auto z = [&](std::int64_t j) { return (c.r(i, j) - mean) * inverse; };
        const auto z_size = [&](std::int64_t j) {
          return (std::fabs(c.r(i, j)) + std::fabs(mean)) * inverse;
        };
        for (std::int64_t j = 0; j < width; ++j) {
          const double hj = c.dy(i, j) * c.gamma(0, j);
          h += c.centred() ? hj : 0.0;
          h_size += c.centred() ? std::fabs(hj) : 0.0;
          hz += hj * z(j);
          hz_size += std::fabs(hj) * z_size(j);
          dgamma[j] += c.dy(i, j) * z(j);
          dgamma_size[j] += std::fabs(c.dy(i, j)) * z_size(j);
          dbeta[j] += c.dy(i, j);
          dbeta_size[j] += std::fabs(c.dy(i, j));
        }
        for (std::int64_t j = 0; j < width; ++j) {
          const double hj = c.dy(i, j) * c.gamma(0, j);
          const double want = before.dr(i, j) + inverse * (hj - static_cast<double>(h) / width -
                                                           z(j) * static_cast<double>(hz) / width);
          const double size = std::fabs(before.dr(i, j)) +
                              inverse * (std::fabs(hj) + static_cast<double>(h_size) / width +
                                         z_size(j) * static_cast<double>(hz_size) / width);
          expect_close(c.dr.at(i, j), want, size, k + 12, "dr" + place(i, j));
        }
      }
      for (std::int64_t j = 0; j < width; ++j) {
        const double g = before.dgamma(0, j), b = before.dbeta(0, j);
        expect_close(c.dgamma.at(0, j), g + dgamma[j], std::fabs(g) + dgamma_size[j], 24,
                     "dgamma" + place(0, j));
        if (!c.centred()) continue;
        expect_close(c.dbeta.at(0, j), b + dbeta[j], std::fabs(b) + dbeta_size[j], 24,
                     "dbeta" + place(0, j));
      }
    }
  }
}

TYPED_TEST(Norm, the_sum_may_overwrite_the_residual_and_beta_may_be_absent) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    Case<TypeParam> apart(kind, 19, 257), together(kind, 19, 257);
    apart.beta.fill(0.0);
    apart.forward(*kernels);
    together.r = together.residual;
    kernels->norm_forward(kind, together.y.view(), together.r.view(), together.stats.view(),
                          together.r.view(), together.x.view(), together.gamma.flat(), TensorView(),
                          kEps);
    for (std::int64_t i = 0; i < 19; ++i) {
      for (std::int64_t j = 0; j < 257; ++j) {
        ASSERT_EQ(together.r(i, j), apart.r(i, j)) << place(i, j);
        ASSERT_EQ(together.y(i, j), apart.y(i, j)) << place(i, j);
      }
    }
  }
}

TYPED_TEST(Norm, without_a_branch_the_residual_is_normalised_and_the_sum_not_written) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    Case<TypeParam> with(kind, 7, 255), without(kind, 7, 255);
    with.x.fill(0.0);
    with.forward(*kernels);
    kernels->norm_forward(kind, without.y.view(), without.r.view(), without.stats.view(),
                          without.residual.view(), TensorView(), without.gamma.flat(),
                          without.centred() ? without.beta.flat() : TensorView(), kEps);
    EXPECT_TRUE(without.y.same_bits(with.y));
    EXPECT_TRUE(std::isnan(without.r(0, 0)));
  }
}

// E[r^2] - mean^2 in fp32 would leave nothing of a variance of 1 beside a mean of 10^4.
TEST(LayerNorm, a_large_mean_does_not_cost_the_variance) {
  const auto kernels = make_cpu_kernels(0);
  Case<float> c(NormKind::kLayerNorm, 5, 768, 1e4);
  c.forward(*kernels);
  for (std::int64_t i = 0; i < 5; ++i) {
    // The mean is off by (k + 1) u 10^4 = 0.019 at most; its square enters the variance of about 2,
    // with (2k + 8) u on top: (1.9e-2)^2 / 2 / 2 < 1e-4 relative in 1/std.
    const RowStatistics s = statistics(c, i);
    EXPECT_NEAR(c.stats(i, 1), s.inverse, 1e-4 * s.inverse);
  }
}

TEST(RmsNorm, eps_is_inside_the_root) {
  const auto kernels = make_cpu_kernels(0);
  Case<double> c(NormKind::kRmsNorm, 1, 4);
  c.x.fill(0.0);
  c.residual.fill(1e-3);
  c.forward(*kernels);
  EXPECT_NEAR(c.stats(0, 1), 1.0 / std::sqrt(1e-6 + kEps), 1e-12 / std::sqrt(1e-6 + kEps));
  EXPECT_EQ(c.stats(0, 0), 0.0);
}

TEST(Norm, backward_is_the_gradient_of_forward) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    for (const std::int64_t width : {2, 3, 17}) {
      const std::int64_t n = 3;
      Case<double> c(kind, n, width);
      // Contiguous operands, whose storage the check can walk over.
      c.y = Matrix<double>(n, width);
      c.r = Matrix<double>(n, width);
      c.residual = Matrix<double>::random("residual", n, width);
      c.dy = Matrix<double>::random("dy", n, width);
      c.forward(*kernels);
      c.dr.fill(0.0);
      c.dgamma.fill(0.0);
      c.dbeta.fill(0.0);
      c.backward(*kernels);
      if (!c.centred()) c.beta.fill(0.0), c.dbeta.fill(0.0);
      expect_gradients_match([&] { c.forward(*kernels); }, c.y.storage, c.dy.storage,
                             {{"residual", c.residual.storage, c.dr.storage},
                              {"x", c.x.storage, c.dr.storage},
                              {"gamma", c.gamma.storage, c.dgamma.storage},
                              {"beta", c.beta.storage, c.dbeta.storage}});
    }
  }
}

TYPED_TEST(Norm, results_are_the_same_bits_for_any_team) {
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : kKinds) {
    // More than 64 * 16 rows: blocks of 17.
    Case<TypeParam> first(kind, 1, 1);
    for_each_team([&](int threads) {
      Case<TypeParam> c(kind, 1060, 65);
      c.forward(*kernels);
      c.backward(*kernels);
      if (threads == 1) first = c;
      EXPECT_TRUE(c.y.same_bits(first.y)) << threads;
      EXPECT_TRUE(c.dr.same_bits(first.dr)) << threads;
      EXPECT_TRUE(c.dgamma.same_bits(first.dgamma)) << threads;
      EXPECT_TRUE(c.dbeta.same_bits(first.dbeta)) << threads;
    });
  }
}

TYPED_TEST(Norm, a_not_finite_element_spoils_its_row_and_no_other) {
  const auto kernels = make_cpu_kernels(0);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const NormKind kind : kKinds) {
      Case<TypeParam> c(kind, 3, 100);
      c.residual.at(1, 70) = rounded<TypeParam>(bad);
      c.forward(*kernels);
      EXPECT_TRUE(std::isnan(c.y(1, 70)));
      for (std::int64_t j = 0; j < 100; ++j) {
        EXPECT_TRUE(std::isfinite(c.y(0, j)) && std::isfinite(c.y(2, j)));
        if (std::isnan(bad)) {
          EXPECT_TRUE(std::isnan(c.y(1, j)));
        }
      }
      c.backward(*kernels);
      EXPECT_TRUE(std::isnan(c.dr(1, 0)));
      EXPECT_TRUE(std::isnan(c.dgamma(0, 70)));
    }
  }
}

}  // namespace
}  // namespace pg::model::testing
