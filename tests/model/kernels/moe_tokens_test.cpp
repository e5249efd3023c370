// Tokens to rows of experts and back.
#include <gtest/gtest.h>

#include "tests/model/kernels/gradient_check.h"
#include "tests/model/kernels/moe_operands.h"

namespace pg::model::testing {
namespace {

using Rows = Table<std::int32_t>;

// Rows by the definition; counts by expert.
std::vector<std::int64_t> number(Rows& rows, const Mask& kept) {
  std::vector<std::int64_t> counts(kept.width, 0);
  std::int32_t next = 0;
  for (std::int64_t e = 0; e < kept.width; ++e) {
    for (std::int64_t i = 0; i < kept.n; ++i) {
      rows.at(i, e) = kept.at(i, e) != 0 ? next++ : -1;
      counts[e] += kept.at(i, e) != 0 ? 1 : 0;
    }
  }
  return counts;
}

std::int64_t total(const std::vector<std::int64_t>& counts) {
  std::int64_t sum = 0;
  for (const std::int64_t count : counts) sum += count;
  return sum;
}

TEST(MoeRows, are_sorted_by_expert_and_then_by_token) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t n : {1, 37, 700}) {
    for (const std::int64_t experts : {1, 6, 64}) {
      // Random, none, all, and all to one expert: the other groups are empty.
      Mask some = random_mask("kept", n, experts, 0.3), none = some, all = some, one = some;
      none.fill(0), all.fill(1), one.fill(0);
      for (std::int64_t i = 0; i < n; ++i) one.at(i, experts / 2) = 1;
      for (Mask* kept : {&some, &none, &all, &one}) {
        Rows want(n, experts, 2);
        const auto want_counts = number(want, *kept);
        for_each_team([&](int) {
          Rows rows(n, experts, 2);
          std::vector<std::int64_t> counts(experts, -1);
          kernels->moe_rows(rows.view(), counts, kept->view());
          EXPECT_EQ(rows.storage, want.storage);
          EXPECT_EQ(counts, want_counts);
        });
      }
    }
  }
}

template <class T>
class MoeTokens : public ::testing::Test {};
TYPED_TEST_SUITE(MoeTokens, ComputeTypes);

// Tokens with their rows. Token 3 has none.
template <class T>
struct Case {
  Mask kept;
  Rows rows;
  std::vector<std::int64_t> counts;
  std::int64_t slots;
  Matrix<T> x;
  Matrix<acc_of<T>> gates;

  Case(std::int64_t n, std::int64_t experts, std::int64_t channels)
      : kept(random_mask("kept", n, experts, 0.4)),
        rows(n, experts, 1),
        x(Matrix<T>::random("x", n, channels, 3)),
        gates(Matrix<acc_of<T>>::random("gates", n, experts, 2)) {
    if (n > 3) std::fill_n(&kept.at(3, 0), experts, 0);
    counts = number(rows, kept);
    slots = total(counts);
    // Gates without a row must not be read.
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t e = 0; e < experts; ++e) {
        if (rows.at(i, e) < 0) gates.at(i, e) = std::numeric_limits<acc_of<T>>::quiet_NaN();
      }
    }
  }
};

struct Size {
  std::int64_t tokens, experts, channels;
};
constexpr Size kSizes[] = {{1, 1, 1}, {41, 5, 17}, {90, 8, 600}, {40, 1, 33}};

TYPED_TEST(MoeTokens, are_copied_or_scaled_to_their_rows) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [n, experts, channels] : kSizes) {
    Case<T> c(n, experts, channels);
    for_each_team([&](int) {
      Matrix<T> copied(c.slots, channels, 1), scaled(c.slots, channels, 2);
      kernels->moe_dispatch(copied.view(), c.x.view(), c.rows.view(), {});
      kernels->moe_dispatch(scaled.view(), c.x.view(), c.rows.view(), c.gates.view());
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t e = 0; e < experts; ++e) {
          const std::int32_t row = c.rows.at(i, e);
          if (row < 0) continue;
          for (std::int64_t k = 0; k < channels; ++k) {
            ASSERT_EQ(copied(row, k), c.x(i, k)) << place(row, k);
            const A product = static_cast<A>(c.x.at(i, k)) * c.gates.at(i, e);
            ASSERT_EQ(scaled(row, k), value(static_cast<T>(product))) << place(row, k);
          }
        }
      }
      EXPECT_TRUE(copied.padding_is_untouched() && scaled.padding_is_untouched());
    });
  }
}

// The sum over at most E terms: a rounding for each product and each addition, and y's own.
TYPED_TEST(MoeTokens, combine_sums_the_rows_of_a_token_and_rounds_once) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [n, experts, channels] : kSizes) {
    Case<T> c(n, experts, channels);
    auto from = Matrix<T>::random("from", c.slots, channels, 2);
    const auto before = Matrix<T>::random("y", n, channels, 1);
    for (const bool gated : {false, true}) {
      for (const bool accumulate : {false, true}) {
        Matrix<T> y = accumulate ? before : Matrix<T>(n, channels, 1);
        const TensorView gates = gated ? c.gates.view() : TensorView();
        kernels->moe_combine(y.view(), from.view(), c.rows.view(), gates, accumulate);
        for (std::int64_t i = 0; i < n; ++i) {
          for (std::int64_t k = 0; k < channels; ++k) {
            long double sum = accumulate ? before(i, k) : 0.0, magnitude = std::fabs(sum);
            for (std::int64_t e = 0; e < experts; ++e) {
              const std::int32_t row = c.rows.at(i, e);
              if (row < 0) continue;
              const long double term =
                  static_cast<long double>(from(row, k)) * (gated ? c.gates(i, e) : 1.0);
              sum += term;
              magnitude += std::fabs(term);
            }
            expect_close<T>(y.at(i, k), static_cast<double>(sum), static_cast<double>(magnitude),
                            2.0 * static_cast<double>(experts) + 2.0, place(i, k));
          }
        }
        EXPECT_TRUE(y.padding_is_untouched());
        for_each_team([&](int threads) {
          Matrix<T> again = accumulate ? before : Matrix<T>(n, channels, 1);
          kernels->moe_combine(again.view(), from.view(), c.rows.view(), gates, accumulate);
          EXPECT_TRUE(again.same_bits(y)) << threads;
        });
      }
    }
  }
}

// Gates of 1/2, 1/4, ... are exact, and their products too.
TYPED_TEST(MoeTokens, come_back_as_they_went) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kN = 50, kE = 4, kC = 70;
  auto x = Matrix<T>::random("x", kN, kC);
  Mask kept(kN, kE);
  Matrix<acc_of<T>> gates(kN, kE);
  // Token i has i % 4 + 1 experts; the gates of each sum to 1.
  for (std::int64_t i = 0; i < kN; ++i) {
    const std::int64_t k = i % kE + 1;
    for (std::int64_t j = 0; j < kE; ++j) {
      const std::int64_t e = (i + j) % kE;
      kept.at(i, e) = j < k ? 1 : 0;
      gates.at(i, e) = std::ldexp(acc_of<T>{1}, -static_cast<int>(j + 1 < k ? j + 1 : k - 1));
    }
  }
  Rows rows(kN, kE);
  std::vector<std::int64_t> counts(kE);
  kernels->moe_rows(rows.view(), counts, kept.view());
  Matrix<T> there(total(counts), kC), back(kN, kC);
  kernels->moe_dispatch(there.view(), x.view(), rows.view(), {});
  kernels->moe_combine(back.view(), there.view(), rows.view(), gates.view(), false);
  EXPECT_TRUE(back.same_bits(x));
}

TYPED_TEST(MoeTokens, gate_gradients_are_dot_products) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [n, experts, channels] : kSizes) {
    Case<T> c(n, experts, channels);
    auto from = Matrix<T>::random("from", c.slots, channels, 2);
    Matrix<A> dgates(n, experts, 1);
    kernels->moe_gate_gradient(dgates.view(), c.x.view(), from.view(), c.rows.view());
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::int32_t row = c.rows.at(i, e);
        long double sum = 0, magnitude = 0;
        for (std::int64_t k = 0; k < channels && row >= 0; ++k) {
          const long double term = static_cast<long double>(c.x(i, k)) * from(row, k);
          sum += term;
          magnitude += std::fabs(term);
        }
        expect_close<A>(dgates.at(i, e), static_cast<double>(sum), static_cast<double>(magnitude),
                        lane_roundings(channels), place(i, e));
      }
    }
    EXPECT_TRUE(dgates.padding_is_untouched());
    for_each_team([&](int threads) {
      Matrix<A> again(n, experts, 1);
      kernels->moe_gate_gradient(again.view(), c.x.view(), from.view(), c.rows.view());
      EXPECT_TRUE(again.same_bits(dgates)) << threads;
    });
  }
}

// y = combine(dispatch(x), gates): dispatch with gates is the gradient of combine by its rows,
// combine that of dispatch, and the dot products are that of the gates.
TEST(MoeTokenGradients, are_those_of_differences) {
  const auto kernels = make_cpu_kernels(0);
  Case<double> c(5, 3, 4);
  auto x = Matrix<double>::random("x", 5, 4);
  Matrix<double> gates(5, 3), there(c.slots, 4), y(5, 4);
  for (std::int64_t i = 0; i < 5; ++i) {
    for (std::int64_t e = 0; e < 3; ++e) {
      gates.at(i, e) = c.rows.at(i, e) < 0 ? 0.0 : c.gates.at(i, e);
    }
  }
  const auto forward = [&] {
    kernels->moe_dispatch(there.view(), x.view(), c.rows.view(), {});
    kernels->moe_combine(y.view(), there.view(), c.rows.view(), gates.view(), false);
  };
  forward();
  auto dy = Matrix<double>::random("dy", 5, 4);
  Matrix<double> d_there(c.slots, 4), dx(5, 4), dgates(5, 3);
  kernels->moe_dispatch(d_there.view(), dy.view(), c.rows.view(), gates.view());
  kernels->moe_combine(dx.view(), d_there.view(), c.rows.view(), {}, false);
  kernels->moe_gate_gradient(dgates.view(), dy.view(), there.view(), c.rows.view());
  expect_gradients_match(forward, y.storage, dy.storage,
                         {{"x", x.storage, dx.storage}, {"gates", gates.storage, dgates.storage}});
}

}  // namespace
}  // namespace pg::model::testing
