// The vectorised functions against libm in double, over all floats in steps of 1,009.
#include "model/kernels/cpu/simd_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace pg::model::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Largest error of f in units of the exact result's last place (denormal results: of 2^-149), where
// the exact result is a finite float; outside, infinity is asked for.
template <class Fast, class Exact>
double worst_error(Fast fast, Exact exact, float lowest, float highest) {
  double worst = 0.0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 1009) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(x >= lowest && x <= highest)) continue;
    const double expected = exact(static_cast<double>(x));
    const float got = fast(x);
    if (expected >= 0x1.ffffffp127) {  // rounds to infinity
      EXPECT_EQ(got, kInfinity) << x;
      continue;
    }
    const int exponent = expected == 0.0 ? -149 : std::max(std::ilogb(expected) - 23, -149);
    worst = std::max(worst, std::abs(got - expected) / std::ldexp(1.0, exponent));
  }
  return worst;
}

constexpr float kMax = std::numeric_limits<float>::max();

TEST(SimdMath, exp_is_within_two_ulp_of_all_results) {
  EXPECT_LE(worst_error([](float x) { return simd_exp(x); }, [](double x) { return std::exp(x); },
                        -kMax, kMax),
            2.0);
}

TEST(SimdMath, tanh_is_within_two_ulp) {
  EXPECT_LE(worst_error([](float x) { return simd_tanh(x); }, [](double x) { return std::tanh(x); },
                        -kMax, kMax),
            2.0);
}

TEST(SimdMath, sigmoid_is_within_three_ulp) {
  EXPECT_LE(worst_error([](float x) { return simd_sigmoid(x); },
                        [](double x) { return 1.0 / (1.0 + std::exp(-x)); }, -kMax, kMax),
            3.0);
}

// Below -87 the sigmoid is denormal and its step is multiplied by x.
TEST(SimdMath, silu_is_within_four_ulp_and_below_minus_87_within_x_denormal_steps) {
  const auto fast = [](float x) { return simd_silu(x); };
  const auto exact = [](double x) { return x / (1.0 + std::exp(-x)); };
  EXPECT_LE(worst_error(fast, exact, -87.0f, kMax), 4.0);
  for (float x = -110.0f; x < -87.0f; x += 0.013f) {
    EXPECT_NEAR(fast(x), exact(x), -x * 0x1p-149 + 1e-6 * -exact(x)) << x;
  }
}

TEST(SimdMath, limits_are_exact_and_nan_stays_nan) {
  EXPECT_EQ(simd_exp(-kInfinity), 0.0f);
  EXPECT_EQ(simd_exp(-1e30f), 0.0f);
  EXPECT_EQ(simd_exp(-104.0f), 0.0f);
  EXPECT_EQ(simd_exp(0.0f), 1.0f);
  EXPECT_EQ(simd_exp(kInfinity), kInfinity);
  EXPECT_EQ(simd_tanh(kInfinity), 1.0f);
  EXPECT_EQ(simd_tanh(-kInfinity), -1.0f);
  EXPECT_EQ(simd_sigmoid(kInfinity), 1.0f);
  EXPECT_EQ(simd_sigmoid(-kInfinity), 0.0f);
  EXPECT_EQ(simd_silu(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(simd_silu(-kInfinity)));
  for (const float nan : {kNan, -kNan}) {
    EXPECT_TRUE(std::isnan(simd_exp(nan)));
    EXPECT_TRUE(std::isnan(simd_tanh(nan)));
    EXPECT_TRUE(std::isnan(simd_sigmoid(nan)));
    EXPECT_TRUE(std::isnan(simd_silu(nan)));
  }
}

}  // namespace
}  // namespace pg::model::cpu
