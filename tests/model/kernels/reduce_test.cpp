#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

template <class T>
class Reduce : public ::testing::Test {};
TYPED_TEST_SUITE(Reduce, ComputeTypes);

// 32768 elements are a block; the last length has several and a ragged end.
constexpr std::int64_t kLengths[] = {1, 3, 17, 255, 257, 32768, 100'003};

TYPED_TEST(Reduce, sums_are_within_the_rounding_of_their_additions) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t n : kLengths) {
    auto x = Matrix<TypeParam>::random("x", 1, n, 0, 0.1);
    long double sum = 0, magnitude = 0, squares = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const long double v = x(0, i);
      sum += v;
      magnitude += std::fabs(v);
      squares += v * v;
    }
    // A block is at most 1024 additions a lane, then 5 levels; then one addition a block.
    const double roundings = std::min<double>(1024.0, n / 32.0) + 7.0 + n / 32768.0;
    EXPECT_NEAR(sum_of(*kernels, x.flat()), static_cast<double>(sum),
                static_cast<double>(magnitude) * roundings * 0x1.0p-53);
    EXPECT_NEAR(squares_of(*kernels, x.flat()), static_cast<double>(squares),
                static_cast<double>(squares) * roundings * 0x1.0p-53);
  }
}

TYPED_TEST(Reduce, sums_are_the_same_bits_for_any_team) {
  const auto kernels = make_cpu_kernels(0);
  auto x = Matrix<TypeParam>::random("x", 1, 300'001, 0, 0.1);
  double first_sum = 0, first_squares = 0;
  for_each_team([&](int threads) {
    const double sum = sum_of(*kernels, x.flat()), squares = squares_of(*kernels, x.flat());
    if (threads == 1) first_sum = sum, first_squares = squares;
    EXPECT_EQ(sum, first_sum) << threads;
    EXPECT_EQ(squares, first_squares) << threads;
  });
}

TYPED_TEST(Reduce, one_nan_or_infinity_anywhere_is_seen) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t n : {1, 33, 70'000}) {
    for (const std::int64_t at : {std::int64_t{0}, n / 2, n - 1}) {
      Matrix<TypeParam> x(1, n);
      x.fill(1.0);
      x.at(0, at) = rounded<TypeParam>(-std::numeric_limits<double>::infinity());
      EXPECT_EQ(sum_of(*kernels, x.flat()), -std::numeric_limits<double>::infinity());
      EXPECT_EQ(squares_of(*kernels, x.flat()), std::numeric_limits<double>::infinity());
      x.at(0, at) = rounded<TypeParam>(std::numeric_limits<double>::quiet_NaN());
      EXPECT_TRUE(std::isnan(sum_of(*kernels, x.flat())));
      EXPECT_TRUE(std::isnan(squares_of(*kernels, x.flat())));
    }
  }
}

TEST(Reduce, squares_of_large_floats_do_not_overflow) {
  const auto kernels = make_cpu_kernels(0);
  Matrix<float> x(1, 100);
  x.fill(1e30);
  const double one = value(x.at(0, 0));
  EXPECT_NEAR(squares_of(*kernels, x.flat()), 100.0 * one * one, 100.0 * one * one * 1e-14);
}

}  // namespace
}  // namespace pg::model::testing
