#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/gradient_check.h"
#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kScale = 0.125;

// The last one has three blocks of 2048 and a ragged end.
constexpr std::int64_t kVocabs[] = {1, 3, 17, 255, 257, 6500};

std::vector<std::int32_t> draw_targets(std::int64_t n, std::int64_t vocab) {
  std::vector<std::int32_t> targets(n);
  for (std::int64_t i = 0; i < n; ++i) {
    targets[i] =
        i % 4 == 3
            ? -1
            : static_cast<std::int32_t>(comm::random_bits(comm::random_key(1, "targets"), 0, i) %
                                        static_cast<std::uint32_t>(vocab));
  }
  return targets;
}

// Checks losses and gradients of `logits` (as they were before the call) against plain sums.
//
// Errors, in roundings u of the logits' type L: exp is within 2 of its argument x - m, whose own
// rounding costs |x - m| more relative to the exponential; a block's sum has at most 71 (64
// additions a lane, five levels and a rest). With s = max |x - m| the sum is off by (75 + s) u
// relative, which is the loss's absolute error, and a gradient scale p(x) by (80 + 2s) u relative.
// Rounding in fp64 adds 8 ulp of the loss's parts. Exponentials below the normal range may lose all
// digits.
template <class L, class D>
void expect_matches(const Matrix<L>& logits, const Matrix<double>& losses, const Matrix<D>* dlogits,
                    const std::vector<std::int32_t>& targets) {
  for (std::int64_t i = 0; i < logits.n; ++i) {
    if (targets[i] < 0) {
      EXPECT_EQ(losses(i, 0), 0.0);
      for (std::int64_t j = 0; dlogits && j < logits.width; ++j) EXPECT_EQ((*dlogits)(i, j), 0.0);
      continue;
    }
    double top = -kInf, spread = 0.0;
    for (std::int64_t j = 0; j < logits.width; ++j) top = std::max(top, logits(i, j));
    long double sum = 0;
    for (std::int64_t j = 0; j < logits.width; ++j) {
      sum += std::exp(static_cast<long double>(logits(i, j)) - top);
      spread = std::max(spread, top - logits(i, j));
    }
    const double at_target = logits(i, targets[i]);
    const auto lse = static_cast<double>(std::log(sum)) + top;
    EXPECT_NEAR(losses(i, 0), lse - at_target,
                (75 + spread) * unit<L>() + 0x1.0p-50 * (std::fabs(top) + std::fabs(at_target) + 1))
        << i;
    for (std::int64_t j = 0; dlogits && j < logits.width; ++j) {
      const auto p =
          static_cast<double>(std::exp(static_cast<long double>(logits(i, j)) - top) / sum);
      const double onehot = j == targets[i] ? 1.0 : 0.0;
      // fp32 results or exponentials, whichever is coarser, below 2^-126.
      expect_close<D>(dlogits->at(i, j), kScale * (p - onehot), 0.0, 0.0, place(i, j),
                      kScale * p * (80 + 2 * spread) * unit<L>() +
                          unit<acc_of<D>>() * kScale * std::fabs(p - onehot) + 0x1.0p-120);
    }
  }
}

template <class Types>
class CrossEntropy : public ::testing::Test {};
template <class L, class D>
struct LogitsAndGradient {
  using Logits = L;
  using Gradient = D;
};
using TypePairs = ::testing::Types<LogitsAndGradient<double, double>,
                                   LogitsAndGradient<float, float>, LogitsAndGradient<float, bf16>>;
TYPED_TEST_SUITE(CrossEntropy, TypePairs);

TYPED_TEST(CrossEntropy, losses_and_gradients_match_the_definition_on_padded_rows) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t vocab : kVocabs) {
    for (const double scale : {1.0, 12.0}) {  // the second spreads over more than fp32's range
      const std::int64_t n = 9;
      auto logits = Matrix<L>::random("logits", n, vocab, 3, 5.0, scale);
      auto targets = draw_targets(n, vocab);
      Matrix<double> losses(n, 1);
      Matrix<D> dlogits(n, vocab, 1);
      kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets),
                             kScale);
      expect_matches(logits, losses, &dlogits, targets);
      EXPECT_TRUE(dlogits.padding_is_untouched());

      Matrix<double> alone(n, 1);  // without a gradient: the same losses
      kernels->cross_entropy(alone.flat(), TensorView(), logits.view(), view_of(targets), kScale);
      EXPECT_TRUE(alone.same_bits(losses));
    }
  }
}

TYPED_TEST(CrossEntropy, the_gradient_may_overwrite_the_logits) {
  using L = typename TypeParam::Logits;
  const auto kernels = make_cpu_kernels(0);
  const auto before = Matrix<L>::random("logits", 8, 257, 3);
  auto logits = before;
  auto apart = before;
  Matrix<L> dlogits(8, 257);
  auto targets = draw_targets(8, 257);
  Matrix<double> losses(8, 1), losses_apart(8, 1);
  kernels->cross_entropy(losses.flat(), logits.view(), logits.view(), view_of(targets), kScale);
  kernels->cross_entropy(losses_apart.flat(), dlogits.view(), apart.view(), view_of(targets),
                         kScale);
  EXPECT_TRUE(losses.same_bits(losses_apart));
  for (std::int64_t i = 0; i < 8; ++i) {
    for (std::int64_t j = 0; j < 257; ++j) ASSERT_EQ(logits(i, j), dlogits(i, j)) << place(i, j);
  }
  EXPECT_TRUE(logits.padding_is_untouched());
}

TEST(CrossEntropy, gradient_is_that_of_the_losses) {
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t n = 4, vocab = 17;
  auto logits = Matrix<double>::random("logits", n, vocab);
  auto targets = draw_targets(n, vocab);  // the last row is ignored: its gradient must be zero
  Matrix<double> losses(n, 1), dlogits(n, vocab);
  kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets), kScale);
  const std::vector<double> weights(n, kScale);
  expect_gradients_match(
      [&] {
        kernels->cross_entropy(losses.flat(), TensorView(), logits.view(), view_of(targets),
                               kScale);
      },
      losses.storage, weights, {{"logits", logits.storage, dlogits.storage}});
}

TYPED_TEST(CrossEntropy, results_are_the_same_bits_for_any_team) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  auto logits = Matrix<L>::random("logits", 41, 2500);
  auto targets = draw_targets(41, 2500);
  Matrix<double> first_losses(1, 1);
  Matrix<D> first(1, 1);
  for_each_team([&](int threads) {
    Matrix<double> losses(41, 1);
    Matrix<D> dlogits(41, 2500);
    kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets), kScale);
    if (threads == 1) first_losses = losses, first = dlogits;
    EXPECT_TRUE(losses.same_bits(first_losses)) << threads;
    EXPECT_TRUE(dlogits.same_bits(first)) << threads;
  });
}

TYPED_TEST(CrossEntropy, large_logits_do_not_overflow) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  auto logits = Matrix<L>::random("logits", 3, 257, 0, 30000.0, 3.0);
  std::vector<std::int32_t> targets = {0, 100, 256};
  Matrix<double> losses(3, 1);
  Matrix<D> dlogits(3, 257);
  kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets), kScale);
  expect_matches(logits, losses, &dlogits, targets);
}

TYPED_TEST(CrossEntropy, nan_and_plus_infinity_spoil_their_row_wherever_they_stand) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t vocab = 4100;
  for (const double bad : {kNan, kInf}) {
    for (const std::int64_t at : {0, 31, 2047, 2048, 4099}) {
      auto logits = Matrix<L>::random("logits", 3, vocab);
      logits.at(1, at) = static_cast<L>(bad);
      std::vector<std::int32_t> targets = {1, 1, 1};
      Matrix<double> losses(3, 1);
      Matrix<D> dlogits(3, vocab);
      dlogits.fill(0.0);
      kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets),
                             kScale);
      EXPECT_TRUE(std::isfinite(losses(0, 0)) && std::isfinite(losses(2, 0)));
      EXPECT_TRUE(std::isnan(losses(1, 0))) << bad << " at " << at;
      for (std::int64_t j = 0; j < vocab; ++j) ASSERT_TRUE(std::isnan(dlogits(1, j))) << j;
    }
  }
}

TYPED_TEST(CrossEntropy, excluded_logits_have_no_probability) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t vocab = 5000;  // the whole first and last block at -inf
  auto logits = Matrix<L>::random("logits", 1, vocab);
  auto middle = Matrix<L>(1, 1000);
  for (std::int64_t j = 0; j < vocab; ++j) {
    if (j < 2100 || j >= 3100) logits.at(0, j) = static_cast<L>(-kInf);
    if (j >= 2100 && j < 3100) middle.at(0, j - 2100) = logits.at(0, j);
  }
  std::vector<std::int32_t> targets = {2500}, middle_targets = {400};
  Matrix<double> losses(1, 1), middle_losses(1, 1);
  Matrix<D> dlogits(1, vocab), middle_dlogits(1, 1000);
  kernels->cross_entropy(losses.flat(), dlogits.view(), logits.view(), view_of(targets), kScale);
  kernels->cross_entropy(middle_losses.flat(), middle_dlogits.view(), middle.view(),
                         view_of(middle_targets), kScale);
  expect_matches(middle, middle_losses, &middle_dlogits, middle_targets);
  // Other blocks, the same terms: both within the bound of expect_matches.
  EXPECT_NEAR(losses(0, 0), middle_losses(0, 0), 2 * 100 * unit<L>());
  for (const std::int64_t j : {0, 2099, 3100, 4999}) EXPECT_EQ(dlogits(0, j), 0.0);

  targets = {0};  // an excluded target: infinite loss
  kernels->cross_entropy(losses.flat(), TensorView(), logits.view(), view_of(targets), kScale);
  EXPECT_EQ(losses(0, 0), kInf);
  logits.fill(-kInf);  // nothing to choose from
  kernels->cross_entropy(losses.flat(), TensorView(), logits.view(), view_of(targets), kScale);
  EXPECT_TRUE(std::isnan(losses(0, 0)));
}

}  // namespace
}  // namespace pg::model::testing
