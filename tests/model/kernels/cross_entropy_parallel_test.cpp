// Cross-entropy of a vocabulary in parts against the fused kernel on the whole.
#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kScale = 0.125;

// Where each of `parts` parts of the vocabulary begins, and its end: growing widths, the first as
// small as 1.
std::vector<std::int64_t> cut(std::int64_t vocab, std::int64_t parts) {
  std::vector<std::int64_t> cuts = {0};
  for (std::int64_t r = 1; r < parts; ++r) {
    const std::int64_t wanted = vocab * r * r * r / (parts * parts * parts);
    cuts.push_back(std::clamp(wanted, cuts.back() + 1, vocab - parts + r));
  }
  cuts.push_back(vocab);
  return cuts;
}

template <class L, class D>
struct Result {
  Matrix<double> losses, merged;
  std::vector<double> stats;  // [R,n,3]
  Matrix<D> dlogits;

  Result(std::int64_t n, std::int64_t vocab) : losses(n, 1), merged(n, 2), dlogits(n, vocab, 1) {}
};

// What R ranks do, with the all-gather as consecutive memory.
template <class L, class D>
Result<L, D> in_parts(Kernels& kernels, Matrix<L>& logits, std::vector<std::int32_t>& targets,
                      const std::vector<std::int64_t>& cuts) {
  const std::int64_t n = logits.n, ranks = static_cast<std::int64_t>(cuts.size()) - 1;
  Result<L, D> result(n, logits.width);
  result.stats.assign(static_cast<std::size_t>(ranks * n * 3), kNan);
  const TensorView all(result.stats.data(), DType::kF64, {ranks, n, 3});
  for (std::int64_t r = 0; r < ranks; ++r) {
    kernels.cross_entropy_stats(all.slice(0, r, 1).reshape({n, 3}),
                                logits.view().slice(1, cuts[r], cuts[r + 1] - cuts[r]),
                                view_of(targets), cuts[r]);
  }
  kernels.cross_entropy_combine(result.losses.flat(), result.merged.view(), all, view_of(targets));
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t width = cuts[r + 1] - cuts[r];
    kernels.cross_entropy_gradient(result.dlogits.view().slice(1, cuts[r], width),
                                   logits.view().slice(1, cuts[r], width), result.merged.view(),
                                   view_of(targets), cuts[r], kScale);
  }
  return result;
}

template <class L, class D>
Result<L, D> fused(Kernels& kernels, Matrix<L>& logits, std::vector<std::int32_t>& targets) {
  Result<L, D> result(logits.n, logits.width);
  kernels.cross_entropy(result.losses.flat(), result.dlogits.view(), logits.view(),
                        view_of(targets), kScale);
  return result;
}

// Every fourth row is ignored; the others' targets meet the first and the last id too.
std::vector<std::int32_t> draw_targets(std::int64_t n, std::int64_t vocab) {
  std::vector<std::int32_t> targets(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = comm::random_bits(comm::random_key(1, "targets"), 0, i);
    targets[i] = static_cast<std::int32_t>(bits % static_cast<std::uint32_t>(vocab));
    if (i == 0) targets[i] = 0;
    if (i == 1) targets[i] = static_cast<std::int32_t>(vocab - 1);
    if (i % 4 == 3) targets[i] = -1;
  }
  return targets;
}

// How far two ways to sum a row may lie apart, each an error away from the exact value (derived in
// cross_entropy_test.cpp, in roundings u of the logits' type; s is the row's spread below its
// maximum): a sum of a part is off by (75 + s) u relative, whether the part is the whole or not,
// and a gradient scale p by (80 + 2s) u relative. Merging R parts adds, in fp64 roundings v, s + 2
// for exp(m_r - m), one product and R additions. The loss itself rounds to 8 ulp of its parts.
template <class L, class D>
void expect_same(const Matrix<L>& logits, const std::vector<std::int32_t>& targets,
                 const Result<L, D>& got, const Result<L, D>& want, std::int64_t ranks) {
  for (std::int64_t i = 0; i < logits.n; ++i) {
    if (targets[i] < 0) {
      EXPECT_EQ(got.losses(i, 0), 0.0);
      for (std::int64_t j = 0; j < logits.width; ++j) EXPECT_EQ(got.dlogits(i, j), 0.0);
      continue;
    }
    double top = -kInf, spread = 0.0;
    for (std::int64_t j = 0; j < logits.width; ++j) top = std::max(top, logits(i, j));
    for (std::int64_t j = 0; j < logits.width; ++j) {
      // Further below, an exponential is 0 in every type: it has no error to speak of.
      if (top - logits(i, j) < 800.0) spread = std::max(spread, top - logits(i, j));
    }
    const double merge = (spread + 3.0 + static_cast<double>(ranks)) * unit<double>();
    EXPECT_NEAR(got.losses(i, 0), want.losses(i, 0),
                2 * (75 + spread) * unit<L>() + merge +
                    2 * 0x1.0p-50 * (std::fabs(top) + std::fabs(logits(i, targets[i])) + 1))
        << "row " << i << " of " << ranks << " parts";
    for (std::int64_t j = 0; j < logits.width; ++j) {
      const double g = want.dlogits(i, j), p = g / kScale + (j == targets[i] ? 1.0 : 0.0);
      // p itself is known to the stored gradient's rounding; the stores round once each, below
      // 2^-126 to steps of their own.
      const double p_bound = std::fabs(p) + unit<D>();
      const double bound = kScale * p_bound * (2 * (80 + 2 * spread) * unit<L>() + merge) +
                           2.02 * unit<D>() * std::fabs(g) + 0x1.0p-120;
      EXPECT_TRUE(std::fabs(got.dlogits(i, j) - g) <= bound)
          << place(i, j) << " of " << ranks << " parts: " << got.dlogits(i, j) << ", not " << g
          << " +- " << bound;
    }
  }
}

template <class Types>
class SplitCrossEntropy : public ::testing::Test {};
template <class L, class D>
struct LogitsAndGradient {
  using Logits = L;
  using Gradient = D;
};
using TypePairs = ::testing::Types<LogitsAndGradient<double, double>,
                                   LogitsAndGradient<float, float>, LogitsAndGradient<float, bf16>>;
TYPED_TEST_SUITE(SplitCrossEntropy, TypePairs);

TYPED_TEST(SplitCrossEntropy, any_parts_give_the_fused_losses_and_gradients) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  // 6500: parts of one, two and three blocks of 2048.
  for (const std::int64_t vocab : {5, 17, 257, 6500}) {
    for (const double scale : {1.0, 12.0}) {  // the second spreads over more than fp32's range
      auto logits = Matrix<L>::random("logits", 9, vocab, 3, 5.0, scale);
      auto targets = draw_targets(9, vocab);
      const auto want = fused<L, D>(*kernels, logits, targets);
      for (const std::int64_t ranks : {1, 2, 3, 5}) {
        const auto got = in_parts<L, D>(*kernels, logits, targets, cut(vocab, ranks));
        expect_same(logits, targets, got, want, ranks);
        EXPECT_TRUE(got.dlogits.padding_is_untouched());
        EXPECT_TRUE(ranks > 1 || got.losses.same_bits(want.losses));
      }
    }
  }
}

TYPED_TEST(SplitCrossEntropy, stats_are_maximum_sum_and_own_target) {
  using L = typename TypeParam::Logits;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t n = 9, vocab = 3000;
  auto logits = Matrix<L>::random("logits", n, vocab, 3);
  auto targets = draw_targets(n, vocab);
  for (const auto& [first, width] :
       {std::pair<std::int64_t, std::int64_t>{0, 1}, {1, 2500}, {2501, 498}, {2999, 1}}) {
    Matrix<double> stats(n, 3);
    kernels->cross_entropy_stats(stats.view(), logits.view().slice(1, first, width),
                                 view_of(targets), first);
    for (std::int64_t i = 0; i < n; ++i) {
      double top = -kInf, spread = 0.0;
      for (std::int64_t j = first; j < first + width; ++j) top = std::max(top, logits(i, j));
      long double sum = 0;
      for (std::int64_t j = first; j < first + width; ++j) {
        sum += std::exp(static_cast<long double>(logits(i, j)) - top);
        spread = std::max(spread, top - logits(i, j));
      }
      const bool own = targets[i] >= first && targets[i] < first + width;
      EXPECT_EQ(stats(i, 0), top);
      EXPECT_NEAR(stats(i, 1), static_cast<double>(sum),
                  (75 + spread) * unit<L>() * static_cast<double>(sum));
      EXPECT_EQ(stats(i, 2), own ? logits(i, targets[i]) : 0.0) << targets[i];
    }
  }
}

TYPED_TEST(SplitCrossEntropy, the_gradient_may_overwrite_the_logits) {
  using L = typename TypeParam::Logits;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t n = 8, vocab = 257;
  auto logits = Matrix<L>::random("logits", n, vocab, 1);
  auto targets = draw_targets(n, vocab);
  const auto cuts = cut(vocab, 3);
  auto apart = in_parts<L, L>(*kernels, logits, targets, cuts);
  for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
    const auto part = logits.view().slice(1, cuts[r], cuts[r + 1] - cuts[r]);
    kernels->cross_entropy_gradient(part, part, apart.merged.view(), view_of(targets), cuts[r],
                                    kScale);
  }
  EXPECT_TRUE(logits.same_bits(apart.dlogits));
}

TYPED_TEST(SplitCrossEntropy, results_are_the_same_bits_for_any_team) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  auto logits = Matrix<L>::random("logits", 41, 2500);
  auto targets = draw_targets(41, 2500);
  Result<L, D> first(1, 1);
  for_each_team([&](int threads) {
    const auto result = in_parts<L, D>(*kernels, logits, targets, cut(2500, 3));
    if (threads == 1) first = result;
    EXPECT_TRUE(result.losses.same_bits(first.losses)) << threads;
    EXPECT_TRUE(result.merged.same_bits(first.merged)) << threads;
    EXPECT_TRUE(result.dlogits.same_bits(first.dlogits)) << threads;
  });
}

TYPED_TEST(SplitCrossEntropy, parts_of_far_apart_and_large_logits_do_not_overflow) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t vocab = 257;
  for (const double apart : {0.0, 100.0, 60000.0}) {
    for (const double mean : {30000.0, -30000.0}) {
      auto logits = Matrix<L>::random("logits", 3, vocab, 0, mean, 3.0);
      const auto cuts = cut(vocab, 3);
      for (std::int64_t i = 0; i < 3; ++i) {  // another part stands out in each row
        for (std::int64_t j = cuts[i]; j < cuts[i + 1]; ++j) {
          logits.at(i, j) = static_cast<L>(logits(i, j) + apart);
        }
      }
      std::vector<std::int32_t> targets = {0, 100, 256};
      const auto got = in_parts<L, D>(*kernels, logits, targets, cuts);
      const auto want = fused<L, D>(*kernels, logits, targets);
      for (std::int64_t i = 0; i < 3; ++i) ASSERT_TRUE(std::isfinite(want.losses(i, 0)));
      expect_same(logits, targets, got, want, 3);
    }
  }
}

TYPED_TEST(SplitCrossEntropy, nan_and_plus_infinity_anywhere_spoil_their_row_on_every_rank) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t vocab = 4100;
  const std::vector<std::int64_t> cuts = {0, 1, 2, 2600, vocab};
  for (const double bad : {kNan, kInf}) {
    for (const std::int64_t at : {0, 1, 2, 2599, 2600, 4099}) {  // alone in a part, too
      auto logits = Matrix<L>::random("logits", 4, vocab);
      logits.at(1, at) = logits.at(3, at) = static_cast<L>(bad);
      std::vector<std::int32_t> targets = {1, 1, 1, -1};
      const auto got = in_parts<L, D>(*kernels, logits, targets, cuts);
      EXPECT_TRUE(std::isfinite(got.losses(0, 0)) && std::isfinite(got.losses(2, 0)));
      EXPECT_TRUE(std::isnan(got.losses(1, 0))) << bad << " at " << at;
      EXPECT_EQ(got.losses(3, 0), 0.0);  // ignored
      for (std::int64_t j = 0; j < vocab; ++j) {
        ASSERT_TRUE(std::isnan(got.dlogits(1, j))) << bad << " at " << at << ", " << j;
        ASSERT_EQ(got.dlogits(3, j), 0.0) << bad << " at " << at << ", " << j;
      }
    }
  }
}

TYPED_TEST(SplitCrossEntropy, excluded_logits_have_no_probability) {
  using L = typename TypeParam::Logits;
  using D = typename TypeParam::Gradient;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t vocab = 900;
  const std::vector<std::int64_t> cuts = {0, 300, 600, vocab};
  // The others lie so low that a part of -inf alone must not pass for one whose maximum is 0.
  auto logits = Matrix<L>::random("logits", 2, vocab, 0, -5000.0);
  for (std::int64_t j = 0; j < vocab; ++j) {
    if (j < 300 || j == 450 || j >= 600) logits.at(0, j) = static_cast<L>(-kInf);
  }
  std::vector<std::int32_t> targets = {400, 400};
  auto got = in_parts<L, D>(*kernels, logits, targets, cuts);
  auto want = fused<L, D>(*kernels, logits, targets);
  ASSERT_TRUE(std::isfinite(want.losses(0, 0)));
  expect_same(logits, targets, got, want, 3);
  for (const std::int64_t j : {0, 299, 450, 600, 899}) EXPECT_EQ(got.dlogits(0, j), 0.0);
  EXPECT_EQ(got.stats[0], -kInf);
  EXPECT_EQ(got.stats[1], 0.0);

  targets = {0, 0};  // an excluded target: infinite loss
  got = in_parts<L, D>(*kernels, logits, targets, cuts);
  EXPECT_EQ(got.losses(0, 0), kInf);
  EXPECT_TRUE(std::isfinite(got.losses(1, 0)));
  logits.fill(-kInf);  // nothing to choose from
  got = in_parts<L, D>(*kernels, logits, targets, cuts);
  want = fused<L, D>(*kernels, logits, targets);
  EXPECT_TRUE(std::isnan(want.losses(0, 0)) && std::isnan(got.losses(0, 0)));
  for (std::int64_t j = 0; j < vocab; ++j) ASSERT_TRUE(std::isnan(got.dlogits(0, j))) << j;
}

TEST(SplitCrossEntropy, shapes_that_do_not_fit_are_bugs) {
  const auto kernels = make_cpu_kernels(0);
  auto logits = Matrix<double>::random("logits", 4, 6);
  Matrix<double> stats(4, 3), losses(4, 1), merged(4, 2), short_merged(3, 2);
  std::vector<std::int32_t> targets = {0, 1, 2, -1}, few = {0, 1, 2};
  const auto all = stats.view().reshape({1, 4, 3});
  kernels->cross_entropy_stats(stats.view(), logits.view(), view_of(targets), 0);
  kernels->cross_entropy_combine(losses.flat(), merged.view(), all, view_of(targets));
  EXPECT_THROW(kernels->cross_entropy_stats(merged.view(), logits.view(), view_of(targets), 0),
               std::exception);
  EXPECT_THROW(kernels->cross_entropy_stats(stats.view(), logits.view(), view_of(few), 0),
               std::exception);
  EXPECT_THROW(
      kernels->cross_entropy_combine(losses.flat(), short_merged.view(), all, view_of(targets)),
      std::exception);
  EXPECT_THROW(kernels->cross_entropy_gradient(logits.view().slice(1, 0, 5), logits.view(),
                                               merged.view(), view_of(targets), 0, 1.0),
               std::exception);
}

}  // namespace
}  // namespace pg::model::testing
