// The generator against its published known answers, and the distributions drawn from it against
// bounds that a good generator misses with probability below 1e-5 (seeds are fixed: a passing test
// stays passing).
#include "comm/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace pg::comm {
namespace {

constexpr double kSigmas = 5;  // two-sided normal tail: 6e-7

std::vector<double> normals(RandomKey key, int count) {
  std::vector<double> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(random_normal(key, static_cast<std::uint64_t>(i)));
  }
  return values;
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

// kat_vectors of the Random123 distribution, lines "philox4x32 10".
TEST(random, philox_gives_the_known_answers) {
  using Words = std::array<std::uint32_t, 4>;
  struct Case {
    Words counter;
    std::array<std::uint32_t, 2> key;
    Words expected;
  };
  constexpr std::uint32_t kOnes = 0xFFFFFFFFu;
  const Case cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{kOnes, kOnes, kOnes, kOnes},
       {kOnes, kOnes},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  const auto join = [](std::uint32_t low, std::uint32_t high) {
    return (static_cast<std::uint64_t>(high) << 32) | low;
  };
  for (const auto& c : cases) {
    EXPECT_EQ(philox({join(c.key[0], c.key[1])}, join(c.counter[2], c.counter[3]),
                     join(c.counter[0], c.counter[1])),
              c.expected);
  }
}

TEST(random, bits_are_the_words_of_the_counters_in_order) {
  const RandomKey key = random_key(1234, "embedding.weight");
  for (const std::uint64_t high : {std::uint64_t{0}, std::uint64_t{7}, ~std::uint64_t{0}}) {
    for (std::uint64_t i = 0; i < 64; ++i) {
      EXPECT_EQ(random_bits(key, high, i), philox(key, high, i / 4)[i % 4]);
    }
  }
}

// 256 bins: chi-squared with 255 degrees of freedom has mean 255 and variance 510.
TEST(random, every_byte_of_the_bits_is_uniform) {
  constexpr int kDraws = 1 << 18;
  const RandomKey key = random_key(1, "uniform");
  for (int shift = 0; shift < 32; shift += 8) {
    std::vector<int> bins(256);
    for (std::uint64_t i = 0; i < kDraws; ++i) ++bins[(random_bits(key, 3, i) >> shift) & 0xFF];
    double chi = 0;
    for (const int n : bins) chi += std::pow(n - kDraws / 256.0, 2) / (kDraws / 256.0);
    EXPECT_LT(std::fabs(chi - 255), kSigmas * std::sqrt(510.0)) << "shift " << shift;
  }
}

// Standard errors over N independent normals: mean 1/sqrt(N), variance sqrt(2/N), skewness
// sqrt(6/N), kurtosis sqrt(24/N).
TEST(random, normals_have_the_moments_of_a_normal) {
  constexpr int kDraws = 400'000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (const double x : normals(random_key(5, "moments"), kDraws)) {
    m1 += x / kDraws;
    m2 += x * x / kDraws;
    m3 += x * x * x / kDraws;
    m4 += x * x * x * x / kDraws;
  }
  EXPECT_LT(std::fabs(m1), kSigmas * std::sqrt(1.0 / kDraws));
  EXPECT_LT(std::fabs(m2 - 1), kSigmas * std::sqrt(2.0 / kDraws));
  // Raw moments, about zero: variance of x^3 is 15, of x^4 is 105 - 9 = 96.
  EXPECT_LT(std::fabs(m3), kSigmas * std::sqrt(15.0 / kDraws));
  EXPECT_LT(std::fabs(m4 - 3), kSigmas * std::sqrt(96.0 / kDraws));
}

// Kolmogorov-Smirnov: P(D sqrt(N) > x) is about 2 exp(-2 x^2), which is 7e-6 at x = 2.5.
TEST(random, normals_follow_the_normal_distribution) {
  constexpr int kDraws = 200'000;
  auto values = normals(random_key(6, "distribution"), kDraws);
  std::sort(values.begin(), values.end());
  double distance = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double expected = normal_cdf(values[static_cast<std::size_t>(i)]);
    distance = std::max({distance, expected - static_cast<double>(i) / kDraws,
                         static_cast<double>(i + 1) / kDraws - expected});
  }
  EXPECT_LT(distance * std::sqrt(kDraws), 2.5);
}

// Beyond 3 sigma lie 2 (1 - Phi(3)) = 0.27% of the draws, give or take sqrt(N p).
TEST(random, normals_have_tails) {
  constexpr int kDraws = 400'000;
  int beyond = 0;
  for (const double x : normals(random_key(7, "tails"), kDraws)) {
    EXPECT_LE(std::fabs(x), std::sqrt(106 * std::log(2.0)));
    beyond += std::fabs(x) > 3;
  }
  const double expected = 2 * normal_cdf(-3) * kDraws;
  EXPECT_LT(std::fabs(beyond - expected), kSigmas * std::sqrt(expected));
}

TEST(random, names_and_seeds_have_keys_of_their_own) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    for (int block = 0; block < 100; ++block) {
      for (const char* what : {"attention.q.weight", "attention.k.weight", "ffn.up.weight"}) {
        keys.push_back(random_key(seed, "blocks." + std::to_string(block) + "." + what).bits);
      }
    }
  }
  keys.push_back(random_key(0, "").bits);
  const auto count = keys.size();
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  EXPECT_EQ(keys.size(), count);
}

// The sample correlation of independent normals has standard error 1/sqrt(N).
TEST(random, streams_that_differ_in_one_place_are_uncorrelated) {
  constexpr int kDraws = 100'000;
  const auto base = normals(random_key(9, "blocks.1.weight"), kDraws);
  const auto expect_uncorrelated = [&](const std::vector<double>& other) {
    double product = 0;
    for (std::size_t i = 0; i < other.size(); ++i) product += base[i] * other[i] / kDraws;
    EXPECT_LT(std::fabs(product), kSigmas / std::sqrt(kDraws));
  };
  expect_uncorrelated(normals(random_key(9, "blocks.2.weight"), kDraws));
  expect_uncorrelated(normals(random_key(8, "blocks.1.weight"), kDraws));
  expect_uncorrelated(normals(random_key(9, "blocks.1.weighu"), kDraws));
  expect_uncorrelated(normals({random_key(9, "blocks.1.weight").bits ^ 1}, kDraws));
  // Neighbours within a stream.
  auto shifted = base;
  std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
  expect_uncorrelated(shifted);
}

// Weights and masks of old runs must stay what they were: the values are part of the contract. They
// were computed by the formulas of comm/random.{h,cpp} written again in Python.
TEST(random, streams_never_change) {
  EXPECT_EQ(random_key(0, "").bits, 0xaebe53f85cdc3c4cu);
  EXPECT_EQ(random_bits(random_key(42, "dropout"), 1, 2), 0xcfd0dccu);
  EXPECT_DOUBLE_EQ(random_normal(random_key(42, "embedding.weight"), 12345), -1.4660280325005959);
}

}  // namespace
}  // namespace pg::comm
