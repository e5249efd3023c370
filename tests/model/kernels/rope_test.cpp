// Rotary embedding against the formula in long double, with bounds from the roundings of each type.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "model/kernels/kernels.h"

namespace pg::model {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
double widen(T x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return static_cast<double>(static_cast<float>(x));
  } else {
    return static_cast<double>(x);
  }
}
template <class T>
T narrow(double x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return bf16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

// x[N,H,D] as columns [D, D + H D) of rows that are D wider on both sides; NaN beside.
template <class T>
struct Tokens {
  Tokens(std::vector<std::int32_t> at, std::int64_t head_count, std::int64_t head_size)
      : positions(std::move(at)),
        heads(head_count),
        size(head_size),
        width((heads + 2) * size),
        data(positions.size() * static_cast<std::size_t>(width), narrow<T>(kNan)) {
    std::mt19937 engine(static_cast<unsigned>(size));
    std::normal_distribution<double> normal;
    for (std::int64_t n = 0; n < count(); ++n) {
      for (std::int64_t i = 0; i < heads * size; ++i) at_column(n, i) = narrow<T>(normal(engine));
    }
  }
  std::int64_t count() const { return static_cast<std::int64_t>(positions.size()); }
  T& at_column(std::int64_t n, std::int64_t i) {
    return data[static_cast<std::size_t>(n * width + size + i)];
  }
  void turn(Kernels& kernels, double theta, bool inverse) {
    const TensorView all(data.data(), dtype_of<T>::value, {count(), width});
    const TensorView where(positions.data(), DType::kI32, {count()});
    kernels.rope(all.slice(1, size, heads * size).split_last(size), where, theta, inverse);
  }
  std::vector<std::int32_t> positions;
  std::int64_t heads, size, width;
  std::vector<T> data;
};

// Two sequences of 40 positions from 0, as training has them, then far ones in no order.
std::vector<std::int32_t> positions() {
  std::vector<std::int32_t> p;
  for (int n = 0; n < 80; ++n) p.push_back(n % 40);
  for (const int far : {5000, 31, 32, 33, 131071, 131072, 7, 1000000, 0}) p.push_back(far);
  return p;
}

template <class T>
class Rope : public ::testing::Test {};
using Types = ::testing::Types<double, float, bf16>;
TYPED_TEST_SUITE(Rope, Types);

// The angle p f has a relative error of 3 eps (the exponent, the power, the product), so its sine
// and cosine one of 3 eps angle, and 4 eps more from sin, cos and the addition theorem's products;
// all in double. Then in the arithmetic's type: rounding the table, two products, a sum: 2 eps; and
// half a unit of the storage: 2^-8 for bf16.
TYPED_TEST(Rope, matches_the_formula_over_odd_sizes_and_far_positions) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(2);
  const double eps = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-23;
  const double storage = std::is_same_v<T, bf16> ? 0x1p-8 : 0.0;
  for (const auto& [size, heads] : {std::pair{2, 1}, {6, 3}, {16, 2}, {40, 1}, {64, 4}, {80, 2}}) {
    for (const double theta : {10000.0, 500000.0}) {
      Tokens<T> x(positions(), heads, size), before = x;
      x.turn(*kernels, theta, false);
      for (std::int64_t n = 0; n < x.count(); ++n) {
        for (std::int64_t i = 0; i < heads * size; ++i) {
          const std::int64_t d = i % size, pair = d % (size / 2), base = i - d + pair;
          const double a = widen(before.at_column(n, base));
          const double b = widen(before.at_column(n, base + size / 2));
          const long double angle =
              static_cast<long double>(x.positions[static_cast<std::size_t>(n)]) *
              std::pow(static_cast<long double>(theta), -2.0L * pair / size);
          const auto cosine = static_cast<double>(std::cos(angle));
          const auto sine = static_cast<double>(std::sin(angle));
          const double expected = d < size / 2 ? a * cosine - b * sine : b * cosine + a * sine;
          const double bound =
              (std::abs(a) + std::abs(b)) *
                  (0x1p-52 * (3.0 * static_cast<double>(angle) + 4.0) + 2.0 * eps) +
              storage * std::abs(expected);
          ASSERT_NEAR(widen(x.at_column(n, i)), expected, bound)
              << "position " << x.positions[static_cast<std::size_t>(n)] << " D " << size << " d "
              << d;
        }
        ASSERT_TRUE(std::isnan(widen(x.at_column(n, -1)))) << "written before the view";
        ASSERT_TRUE(std::isnan(widen(x.at_column(n, heads * size)))) << "written past the view";
      }
    }
  }
}

// The table's error cancels: cos^2 + sin^2 is 1 to 3 eps in the arithmetic's type (two roundings of
// the table, one of the sum), products and sums add 3 eps in each direction, storage twice its own.
TYPED_TEST(Rope, inverse_turns_back) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(1);
  const double eps = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-23;
  const double storage = std::is_same_v<T, bf16> ? 0x1p-8 : 0.0;
  Tokens<T> x(positions(), 3, 16), before = x;
  x.turn(*kernels, 10000.0, false);
  x.turn(*kernels, 10000.0, true);
  for (std::int64_t n = 0; n < x.count(); ++n) {
    for (std::int64_t i = 0; i < 3 * 16; ++i) {
      const std::int64_t d = i % 16, partner = i - d + (d + 8) % 16;
      const double size =
          std::abs(widen(before.at_column(n, i))) + std::abs(widen(before.at_column(n, partner)));
      ASSERT_NEAR(widen(x.at_column(n, i)), widen(before.at_column(n, i)),
                  size * (9.0 * eps + 2.5 * storage));
    }
  }
}

// Products of turned vectors depend on the distance of the positions alone: what makes it relative.
TEST(RopeScores, depend_on_the_distance_only) {
  const auto kernels = make_cpu_kernels(1);
  std::vector<double> scores;
  for (const std::int32_t shift : {0, 31, 1000}) {
    Tokens<double> x({3 + shift, 20 + shift}, 1, 64);
    x.turn(*kernels, 10000.0, false);
    double score = 0.0;
    for (std::int64_t d = 0; d < 64; ++d) score += x.at_column(0, d) * x.at_column(1, d);
    scores.push_back(score);
  }
  // Angles up to 1020 are off by 3 eps of themselves: 7e-13, for each of 64 products of about 1.
  EXPECT_NEAR(scores[1], scores[0], 5e-11);
  EXPECT_NEAR(scores[2], scores[0], 5e-11);
}

TEST(RopeThreads, any_count_gives_the_same_bits) {
  Tokens<float> one(positions(), 2, 40), many = one;
  one.turn(*make_cpu_kernels(1), 10000.0, false);
  many.turn(*make_cpu_kernels(3), 10000.0, false);
  for (std::int64_t n = 0; n < one.count(); ++n) {
    for (std::int64_t i = 0; i < 80; ++i) ASSERT_EQ(one.at_column(n, i), many.at_column(n, i));
  }
}

TEST(RopeShapes, an_odd_head_size_is_a_bug) {
  std::vector<float> x(6);
  std::int32_t position[] = {0, 1};
  const TensorView where(position, DType::kI32, {2});
  EXPECT_THROW(
      make_cpu_kernels(1)->rope(TensorView(x.data(), DType::kF32, {2, 1, 3}), where, 1e4, false),
      std::exception);
}

}  // namespace
}  // namespace pg::model
