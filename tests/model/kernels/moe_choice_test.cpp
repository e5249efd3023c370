// Choices and capacities: integers, so exactly those of a plain reference.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/model/kernels/moe_operands.h"

namespace pg::model::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Positions of the `count` largest scores, of equal ones the first, by sorting. NaN counts as -inf.
std::vector<std::uint8_t> largest(std::vector<double> scores, std::int64_t count) {
  for (double& x : scores) {
    if (std::isnan(x)) x = -std::numeric_limits<double>::infinity();
  }
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
  std::vector<std::uint8_t> set(scores.size(), 0);
  for (std::int64_t i = 0; i < count; ++i) set[order[i]] = 1;
  return set;
}

// Few distinct values, so that there are many ties.
template <class A>
Matrix<A> with_ties(std::int64_t n, std::int64_t width, std::int64_t padding) {
  auto m = Matrix<A>::random("scores", n, width, padding);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < width; ++j) m.at(i, j) = std::round(2 * m.at(i, j)) / 2;
  }
  return m;
}

template <class A>
class MoeChoice : public ::testing::Test {};
TYPED_TEST_SUITE(MoeChoice, AccumulatorTypes);

TYPED_TEST(MoeChoice, experts_are_the_k_best_and_ties_go_to_the_lowest) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 3, 8, 67}) {
    auto probs = with_ties<A>(301, experts, 2);
    auto bias = with_ties<A>(1, experts, 0);
    for (const bool biased : {false, true}) {
      for (const std::int64_t k : {std::int64_t{1}, std::min<std::int64_t>(experts, 3), experts}) {
        for_each_team([&](int) {
          Mask chosen(301, experts, 3);
          kernels->moe_choose_experts(chosen.view(), probs.view(),
                                      biased ? bias.flat() : TensorView(), k);
          for (std::int64_t i = 0; i < 301; ++i) {
            std::vector<double> scores;
            for (std::int64_t e = 0; e < experts; ++e) {
              scores.push_back(probs(i, e) + (biased ? bias(0, e) : 0.0));
            }
            const auto want = largest(scores, k);
            for (std::int64_t e = 0; e < experts; ++e) {
              ASSERT_EQ(chosen.at(i, e), want[e]) << place(i, e) << " k " << k;
            }
          }
          EXPECT_TRUE(chosen.padding_is_untouched());
        });
      }
    }
  }
}

TYPED_TEST(MoeChoice, nan_never_changes_how_many_experts_are_chosen) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kE = 6;
  // Row m has NaN where the bits of m are set: all NaN at last.
  auto probs = Matrix<A>::random("probs", 64, kE);
  for (std::int64_t m = 0; m < 64; ++m) {
    for (std::int64_t e = 0; e < kE; ++e) {
      if ((m >> e & 1) != 0) probs.at(m, e) = static_cast<A>(kNan);
    }
  }
  Mask chosen(64, kE);
  for (std::int64_t k = 0; k <= kE; ++k) {
    kernels->moe_choose_experts(chosen.view(), probs.view(), {}, k);
    for (std::int64_t m = 0; m < 64; ++m) {
      std::int64_t count = 0;
      for (std::int64_t e = 0; e < kE; ++e) count += chosen.at(m, e);
      EXPECT_EQ(count, k) << m;
    }
  }
}

TYPED_TEST(MoeChoice, tokens_are_the_best_of_each_sequence_and_ties_go_to_the_first) {
  using A = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 5, 16, 33}) {
    constexpr std::int64_t kB = 2, kT = 101;
    auto scores = with_ties<A>(kB * kT, experts, 1);
    scores.at(7, 0) = static_cast<A>(kNan);
    for (std::int64_t t = 0; t < kT; ++t) scores.at(kT + t, experts - 1) = static_cast<A>(kNan);
    const TensorView whole(scores.storage.data(), dtype_of<A>::value, {kB, kT, experts + 1});
    for (const std::int64_t count : {0, 1, 40, 101}) {
      for_each_team([&](int) {
        Mask chosen(kB * kT, experts, 3);
        kernels->moe_choose_tokens(chosen.by_sequence(kB), whole.slice(2, 0, experts), count);
        for (std::int64_t b = 0; b < kB; ++b) {
          for (std::int64_t e = 0; e < experts; ++e) {
            std::vector<double> column;
            for (std::int64_t t = 0; t < kT; ++t) column.push_back(scores(b * kT + t, e));
            const auto want = largest(column, count);
            for (std::int64_t t = 0; t < kT; ++t) {
              ASSERT_EQ(chosen.at(b * kT + t, e), want[t]) << place(t, e) << " count " << count;
            }
          }
        }
        EXPECT_TRUE(chosen.padding_is_untouched());
      });
    }
  }
}

// Positions [kFirst, kFirst + kSize) of each of several sequences.
constexpr std::int64_t kB = 3, kT = 90, kFirst = 20, kSize = 55;

TEST(MoeCapacity, counts_of_part_of_each_sequence) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 6, 130}) {
    Mask mask = random_mask("mask", kB * kT, experts, 0.3);
    for_each_team([&](int) {
      Matrix<double> counts(kB, experts, 2);
      kernels->moe_count(counts.view(), mask.by_sequence(kB).slice(1, kFirst, kSize));
      for (std::int64_t b = 0; b < kB; ++b) {
        for (std::int64_t e = 0; e < experts; ++e) {
          std::int64_t want = 0;
          for (std::int64_t t = kFirst; t < kFirst + kSize; ++t) want += mask.at(b * kT + t, e);
          ASSERT_EQ(counts(b, e), static_cast<double>(want)) << place(b, e);
        }
      }
    });
  }
}

// The whole sequence at once, and in three runs that are told what was asked before: the counts of
// the mask before dropping, as those who were cleared asked as well.
TEST(MoeCapacity, the_first_askers_stay_however_the_sequence_is_cut) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t experts : {1, 6, 130}) {
    for (const std::int64_t capacity : {0, 1, 11, 1000}) {
      const Mask asked = random_mask("mask", kB * kT, experts, 0.3);
      Mask whole = asked, parts = asked;
      Matrix<double> before(kB, experts, 1);
      before.fill(0.0);
      kernels->moe_drop(whole.by_sequence(kB), before.view(), capacity);
      for (std::int64_t b = 0; b < kB; ++b) {
        for (std::int64_t e = 0; e < experts; ++e) {
          std::int64_t seen = 0;
          for (std::int64_t t = 0; t < kT; ++t) {
            const bool asks = asked.at(b * kT + t, e) != 0;
            ASSERT_EQ(whole.at(b * kT + t, e), asks && seen < capacity ? 1 : 0) << place(t, e);
            seen += asks;
          }
        }
      }
      Matrix<double> counts(kB, experts);
      for (const auto& [first, size] :
           {std::pair<std::int64_t, std::int64_t>{0, 20}, {20, 55}, {75, 15}}) {
        const TensorView run = parts.by_sequence(kB).slice(1, first, size);
        kernels->moe_count(counts.view(), run);
        kernels->moe_drop(run, before.view(), capacity);
        for (std::int64_t b = 0; b < kB; ++b) {
          for (std::int64_t e = 0; e < experts; ++e) before.at(b, e) += counts.at(b, e);
        }
      }
      EXPECT_EQ(parts.storage, whole.storage);
    }
  }
}

}  // namespace
}  // namespace pg::model::testing
