// The router: its product, softmax, gates, and the gradients of all of them.
#include <gtest/gtest.h>

#include "tests/model/kernels/gradient_check.h"
#include "tests/model/kernels/moe_operands.h"

namespace pg::model::testing {
namespace {

struct Shape {
  std::int64_t tokens, channels, experts;
};
constexpr Shape kShapes[] = {{1, 1, 1},     {37, 17, 5},  {65, 257, 33},
                             {130, 96, 64}, {3, 300, 70}, {70, 33, 1}};

// A sum of n products: 128 of them by fused additions, then one addition of each such sum.
double product_roundings(std::int64_t n) {
  return static_cast<double>(std::min<std::int64_t>(n, 128)) + static_cast<double>(n) / 128.0 + 2.0;
}

template <class T>
class MoeLogits : public ::testing::Test {};
TYPED_TEST_SUITE(MoeLogits, ComputeTypes);

TYPED_TEST(MoeLogits, are_products_in_the_accumulator_type) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [n, channels, experts] : kShapes) {
    auto x = Matrix<T>::random("x", n, channels, 3),
         w = Matrix<T>::random("w", experts, channels, 1);
    Matrix<A> logits(n, experts, 2);
    kernels->moe_logits(logits.view(), x.view(), w.view());
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t e = 0; e < experts; ++e) {
        long double sum = 0, magnitude = 0;
        for (std::int64_t c = 0; c < channels; ++c) {
          const long double term = static_cast<long double>(x(i, c)) * w(e, c);
          sum += term;
          magnitude += std::fabs(term);
        }
        expect_close<A>(logits.at(i, e), static_cast<double>(sum), static_cast<double>(magnitude),
                        product_roundings(channels), place(i, e));
      }
    }
    EXPECT_TRUE(logits.padding_is_untouched());
  }
}

TYPED_TEST(MoeLogits, of_a_token_depend_on_no_other_token_and_no_team) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  const Shape s{203, 130, 9};
  auto x = Matrix<T>::random("x", s.tokens, s.channels), w = Matrix<T>::random("w", 9, s.channels);
  Matrix<A> first(s.tokens, 9);
  kernels->moe_logits(first.view(), x.view(), w.view());
  for_each_team([&](int threads) {
    for (const std::int64_t begin : {0, 1, 67, 202}) {
      const std::int64_t rest = s.tokens - begin;
      Matrix<A> logits(rest, 9);
      kernels->moe_logits(logits.view(), x.view().slice(0, begin, rest), w.view());
      EXPECT_EQ(std::memcmp(logits.storage.data(), &first.at(begin, 0), rest * 9 * sizeof(A)), 0)
          << threads << " threads, from " << begin;
    }
  });
}

// In bf16 the gradient of a logit must not be rounded to bf16: an error of 2^-9 in each term would
// be far outside dw's bound.
TYPED_TEST(MoeLogits, gradients_are_added_and_rounded_once) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [n, channels, experts] : kShapes) {
    auto x = Matrix<T>::random("x", n, channels, 3),
         w = Matrix<T>::random("w", experts, channels, 1);
    auto d = Matrix<A>::random("dlogits", n, experts, 2);
    const auto dx_before = Matrix<T>::random("dx", n, channels, 5);
    const auto dw_before = Matrix<A>::random("dw", experts, channels, 4);
    auto dx = dx_before;
    auto dw = dw_before, dw_alone = dw_before;
    kernels->moe_logits_backward(dx.view(), dw.view(), d.view(), x.view(), w.view());
    kernels->moe_logits_backward({}, dw_alone.view(), d.view(), x.view(), w.view());
    EXPECT_TRUE(dw.same_bits(dw_alone));
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t i = 0; i < n; ++i) {
        long double sum = dx_before(i, c), magnitude = std::fabs(sum);
        for (std::int64_t e = 0; e < experts; ++e) {
          sum += static_cast<long double>(d(i, e)) * w(e, c);
          magnitude += std::fabs(d(i, e) * w(e, c));
        }
        expect_close<T>(dx.at(i, c), static_cast<double>(sum), static_cast<double>(magnitude),
                        product_roundings(experts) + 1, "dx" + place(i, c));
      }
      for (std::int64_t e = 0; e < experts; ++e) {
        long double sum = dw_before(e, c), magnitude = std::fabs(sum);
        for (std::int64_t i = 0; i < n; ++i) {
          sum += static_cast<long double>(d(i, e)) * x(i, c);
          magnitude += std::fabs(d(i, e) * x(i, c));
        }
        expect_close<A>(dw.at(e, c), static_cast<double>(sum), static_cast<double>(magnitude),
                        product_roundings(n) + 1, "dw" + place(e, c));
      }
    }
    EXPECT_TRUE(dx.padding_is_untouched() && dw.padding_is_untouched());
    for_each_team([&](int threads) {
      auto dx_again = dx_before;
      auto dw_again = dw_before;
      kernels->moe_logits_backward(dx_again.view(), dw_again.view(), d.view(), x.view(), w.view());
      EXPECT_TRUE(dx_again.same_bits(dx) && dw_again.same_bits(dw)) << threads << " threads";
    });
  }
}

template <class A>
class MoeSoftmax : public ::testing::Test {};
TYPED_TEST_SUITE(MoeSoftmax, AccumulatorTypes);

// exp has 2 ulp (4 u), of an argument that is off by u of itself (at most 60 here); their sum
// rounds as a sum of lanes; the scale and the product round once each, and so does lse.
TYPED_TEST(MoeSoftmax, matches_the_definition_far_from_zero) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const double mean : {0.0, 1e4, -1e4}) {
    for (const std::int64_t experts : {1, 2, 31, 64, 300, 2049, 4096}) {
      auto logits = Matrix<A>::random("logits", 41, experts, 2, mean, 5.0);
      Matrix<A> probs(41, experts, 1), lse(1, 41);
      kernels->moe_softmax(probs.view(), lse.flat(), logits.view());
      for (std::int64_t i = 0; i < 41; ++i) {
        long double top = logits(i, 0), sum = 0;
        for (std::int64_t e = 0; e < experts; ++e) top = std::max<long double>(top, logits(i, e));
        for (std::int64_t e = 0; e < experts; ++e) sum += std::exp(logits(i, e) - top);
        const double relative = 4.0 + 60.0 + lane_roundings(experts);
        const long double want = top + std::log(sum);
        // The sum's relative error is the logarithm's absolute one.
        EXPECT_NEAR(lse(0, i), static_cast<double>(want),
                    unit<A>() * (relative + 1.01 * std::fabs(static_cast<double>(want))));
        for (std::int64_t e = 0; e < experts; ++e) {
          const auto p = static_cast<double>(std::exp(logits(i, e) - top) / sum);
          expect_close<A>(probs.at(i, e), p, p, 2 * relative + 2, place(i, e));
        }
      }
      EXPECT_TRUE(probs.padding_is_untouched());
    }
  }
}

TYPED_TEST(MoeSoftmax, one_nan_makes_its_row_nan) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  auto logits = Matrix<A>::random("logits", 3, 5);
  logits.at(1, 2) = std::numeric_limits<A>::quiet_NaN();
  Matrix<A> probs(3, 5), lse(1, 3);
  kernels->moe_softmax(probs.view(), lse.flat(), logits.view());
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::isnan(lse(0, i)), i == 1);
    for (std::int64_t e = 0; e < 5; ++e) EXPECT_EQ(std::isnan(probs(i, e)), i == 1);
  }
}

TEST(MoeGradients, of_softmax_and_z_loss_are_those_of_differences) {
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kN = 4, kE = 6;
  constexpr double kZ = 0.3;
  auto logits = Matrix<double>::random("logits", kN, kE);
  auto dprobs = Matrix<double>::random("dprobs", kN, kE);
  Matrix<double> probs(kN, kE), lse(1, kN), dlogits(kN, kE);
  std::vector<double> outputs(kN * kE + kN), weights(dprobs.storage);
  weights.resize(outputs.size(), kZ);
  const auto forward = [&] {
    kernels->moe_softmax(probs.view(), lse.flat(), logits.view());
    std::copy(probs.storage.begin(), probs.storage.end(), outputs.begin());
    for (std::int64_t n = 0; n < kN; ++n) outputs[kN * kE + n] = lse(0, n) * lse(0, n);
  };
  forward();
  kernels->moe_softmax_backward(dlogits.view(), dprobs.view(), probs.view(), lse.flat(), kZ);
  expect_gradients_match(forward, outputs, weights, {{"logits", logits.storage, dlogits.storage}});
}

TEST(MoeGradients, of_gates_flow_to_all_the_chosen) {
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kN = 6, kE = 7;
  for (const bool renormalize : {false, true}) {
    auto probs = Matrix<double>::random("probs", kN, kE, 0, 1.0, 0.1);
    Mask chosen = random_mask("chosen", kN, kE, 0.6);
    Mask kept = random_mask("kept", kN, kE, 0.5, &chosen);
    Matrix<double> gates(kN, kE), weights = Matrix<double>::random("dgates", kN, kE),
                                  dgates = weights;
    for (std::int64_t i = 0; i < kN; ++i) {
      for (std::int64_t e = 0; e < kE; ++e) {
        if (kept.at(i, e) != 0) continue;
        weights.at(i, e) = 0.0;
        dgates.at(i, e) = std::numeric_limits<double>::quiet_NaN();  // must not be read
      }
    }
    const auto forward = [&] {
      kernels->moe_gates(gates.view(), probs.view(), chosen.view(), kept.view(), renormalize);
    };
    forward();
    Matrix<double> dprobs(kN, kE);
    dprobs.fill(0.0);
    kernels->moe_gates_backward(dprobs.view(), dgates.view(), probs.view(), chosen.view(),
                                kept.view(), renormalize);
    expect_gradients_match(forward, gates.storage, weights.storage,
                           {{"probs", probs.storage, dprobs.storage}});
    // A dropped expert's probability still is part of the sum it was chosen into.
    bool dropped_has_gradient = false;
    for (std::int64_t i = 0; i < kN; ++i) {
      for (std::int64_t e = 0; e < kE; ++e) {
        if (chosen.at(i, e) == 0) {
          EXPECT_EQ(dprobs(i, e), 0.0);
        }
        if (chosen.at(i, e) != 0 && kept.at(i, e) == 0 && dprobs(i, e) != 0.0) {
          dropped_has_gradient = true;
        }
      }
    }
    EXPECT_EQ(dropped_has_gradient, renormalize);
  }
}

template <class A>
class MoeGates : public ::testing::Test {};
TYPED_TEST_SUITE(MoeGates, AccumulatorTypes);

TYPED_TEST(MoeGates, are_probabilities_over_the_sum_of_the_chosen) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 5, 64}) {
    auto probs = Matrix<A>::random("probs", 29, experts, 2, 1.0, 0.1);
    Mask chosen = random_mask("chosen", 29, experts, 0.4);
    Mask kept = random_mask("kept", 29, experts, 0.7, &chosen);
    for (const bool renormalize : {false, true}) {
      Matrix<A> gates(29, experts, 1);
      kernels->moe_gates(gates.view(), probs.view(), chosen.view(), kept.view(), renormalize);
      for (std::int64_t i = 0; i < 29; ++i) {
        double sum = 0;
        for (std::int64_t e = 0; e < experts; ++e) sum += chosen.at(i, e) != 0 ? probs(i, e) : 0.0;
        for (std::int64_t e = 0; e < experts; ++e) {
          const double want = kept.at(i, e) == 0 ? 0.0 : probs(i, e) / (renormalize ? sum : 1.0);
          // The sum, its inverse and the product; the reference's own sum in fp64.
          expect_close<A>(gates.at(i, e), want, want, lane_roundings(experts) + 2 + experts,
                          place(i, e));
        }
      }
      EXPECT_TRUE(gates.padding_is_untouched());
    }
  }
}

// Where all the chosen probabilities are 0, their quotient would be NaN.
TYPED_TEST(MoeGates, are_zero_where_nothing_is_left_to_share) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  Matrix<A> probs(1, 3), gates(1, 3), dprobs(1, 3), dgates(1, 3);
  probs.fill(0.0), probs.at(0, 0) = 1, dprobs.fill(0.0), dgates.fill(2.0);
  Mask chosen(1, 3);
  chosen.fill(1), chosen.at(0, 0) = 0;
  kernels->moe_gates(gates.view(), probs.view(), chosen.view(), chosen.view(), true);
  kernels->moe_gates_backward(dprobs.view(), dgates.view(), probs.view(), chosen.view(),
                              chosen.view(), true);
  for (std::int64_t e = 0; e < 3; ++e) {
    EXPECT_EQ(gates(0, e), 0.0);
    EXPECT_EQ(dprobs(0, e), 0.0);
  }
  // But a NaN is not hidden.
  probs.at(0, 1) = std::numeric_limits<A>::quiet_NaN();
  kernels->moe_gates(gates.view(), probs.view(), chosen.view(), chosen.view(), true);
  EXPECT_TRUE(std::isnan(gates(0, 2)));
}

// Mixtral takes the softmax of the chosen logits, others renormalise the chosen probabilities: one
// and the same, as exp(l - lse) / sum exp(l - lse) loses the common factor. Each probability is
// right to (6 + lanes) u beside the rounding of l - max (|l - max| u <= 12 u here); a gate is a
// quotient of two such sums, twice.
TYPED_TEST(MoeGates, renormalised_are_the_softmax_of_the_chosen_logits) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kN = 50, kE = 16, kChosen = 4;
  auto logits = Matrix<A>::random("logits", kN, kE);
  Matrix<A> probs(kN, kE), lse(1, kN), gates(kN, kE), few(kN, kChosen), want(kN, kChosen);
  Mask chosen(kN, kE);
  kernels->moe_softmax(probs.view(), lse.flat(), logits.view());
  kernels->moe_choose_experts(chosen.view(), probs.view(), {}, kChosen);
  kernels->moe_gates(gates.view(), probs.view(), chosen.view(), chosen.view(), true);
  for (std::int64_t i = 0; i < kN; ++i) {
    std::int64_t at = 0;
    for (std::int64_t e = 0; e < kE; ++e) {
      if (chosen.at(i, e) != 0) few.at(i, at++) = logits.at(i, e);
    }
    ASSERT_EQ(at, kChosen);
  }
  kernels->moe_softmax(want.view(), lse.flat(), few.view());
  for (std::int64_t i = 0; i < kN; ++i) {
    std::int64_t at = 0;
    for (std::int64_t e = 0; e < kE; ++e) {
      if (chosen.at(i, e) == 0) continue;
      const double gate = want(i, at++);
      expect_close<A>(gates.at(i, e), gate, gate, 4 * (6 + lane_roundings(kE) + 12), place(i, e));
    }
  }
}

TYPED_TEST(MoeGates, statistics_and_balance_are_of_each_sequence) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 7, 40}) {
    constexpr std::int64_t kB = 3, kR = 50;
    auto probs = Matrix<A>::random("probs", kB * kR, experts, 2, 0.5, 0.1);
    auto lse = Matrix<A>::random("lse", 1, kB * kR);
    Mask chosen = random_mask("chosen", kB * kR, experts, 0.3);
    Matrix<double> stats(kB, 2 * experts + 1, 3);
    kernels->moe_statistics(stats.view(), chosen.view(), probs.view(), lse.flat());
    const auto before = Matrix<A>::random("dprobs", kB * kR, experts, 1);
    auto dprobs = before;
    const TensorView counts = stats.view().slice(1, 0, experts);
    kernels->moe_balance_backward(dprobs.view(), counts, 0.25);
    for (std::int64_t b = 0; b < kB; ++b) {
      double squares = 0;
      for (std::int64_t i = b * kR; i < (b + 1) * kR; ++i) squares += lse(0, i) * lse(0, i);
      EXPECT_NEAR(stats(b, 2 * experts), squares, 2 * kR * unit<double>() * squares);
      for (std::int64_t e = 0; e < experts; ++e) {
        double count = 0, sum = 0;
        for (std::int64_t i = b * kR; i < (b + 1) * kR; ++i) {
          count += chosen.at(i, e);
          sum += probs(i, e);
        }
        EXPECT_EQ(stats(b, e), count);
        EXPECT_NEAR(stats(b, experts + e), sum, 2 * kR * unit<double>() * sum);
        for (std::int64_t i = b * kR; i < (b + 1) * kR; ++i) {
          EXPECT_EQ(dprobs.at(i, e), static_cast<A>(before(i, e) + 0.25 * count));
        }
      }
    }
    EXPECT_TRUE(stats.padding_is_untouched() && dprobs.padding_is_untouched());
    for_each_team([&](int threads) {
      Matrix<double> again(kB, 2 * experts + 1, 3);
      kernels->moe_statistics(again.view(), chosen.view(), probs.view(), lse.flat());
      EXPECT_TRUE(again.same_bits(stats)) << threads;
    });
    Matrix<double> sums(1, 2 * experts + 1);
    sums.fill(1.0);
    kernels->sum_rows(sums.flat(), stats.view());
    for (std::int64_t j = 0; j < sums.width; ++j) {
      const double want = 1.0 + stats(0, j) + stats(1, j) + stats(2, j);
      EXPECT_NEAR(sums(0, j), want, 4 * unit<double>() * want);
    }
  }
}

}  // namespace
}  // namespace pg::model::testing
