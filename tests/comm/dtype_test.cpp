#include "comm/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace pg {
namespace {

float from_bits(std::uint32_t bits) {
  return std::bit_cast<float>(bits);
}

// Rounding by distance, in double, where differences of neighbouring bf16 values and of a float
// between them are exact. Beyond the largest finite value the next step counts as 2^128.
std::uint16_t nearest_even(float value) {
  const auto low = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  const auto next = static_cast<std::uint16_t>(low + 1);
  const auto magnitude = [](std::uint16_t bits) {
    const float f = std::fabs(from_bits(static_cast<std::uint32_t>(bits) << 16));
    return std::isinf(f) ? 0x1.0p128 : static_cast<double>(f);
  };
  const double down = std::fabs(static_cast<double>(value)) - magnitude(low);
  const double up = magnitude(next) - std::fabs(static_cast<double>(value));
  if (down != up) return down < up ? low : next;
  return low % 2 == 0 ? low : next;
}

TEST(bf16, every_pattern_survives_the_way_through_float) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    bf16 value;
    value.bits = static_cast<std::uint16_t>(bits);
    const auto f = static_cast<float>(value);
    const std::uint16_t back = bf16(f).bits;
    if (std::isnan(f)) {
      // Sign and payload stay; a signalling NaN becomes quiet, as in any conversion.
      ASSERT_EQ(back, bits | 0x40u);
    } else {
      ASSERT_EQ(back, bits);
    }
  }
}

TEST(bf16, rounds_to_nearest_ties_to_even_around_every_value) {
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    if ((high & 0x7F80u) == 0x7F80u) continue;  // infinity, NaN
    for (const std::uint32_t low :
         {0x0000u, 0x0001u, 0x1234u, 0x7FFEu, 0x7FFFu, 0x8000u, 0x8001u, 0xABCDu, 0xFFFFu}) {
      const float value = from_bits((high << 16) | low);
      ASSERT_EQ(bf16(value).bits, nearest_even(value)) << std::hex << ((high << 16) | low);
    }
  }
}

TEST(bf16, nan_never_becomes_infinity_or_a_number) {
  for (const std::uint32_t sign : {0u, 0x80000000u}) {
    for (const std::uint32_t payload : {1u, 0xFFu, 0x7FFFu, 0x8000u, 0xFFFFu, 0x10000u, 0x3FFFFFu,
                                        0x400000u, 0x7F8000u, 0x7FFFFFu}) {
      const float nan = from_bits(sign | 0x7F800000u | payload);
      ASSERT_TRUE(std::isnan(nan));
      const bf16 stored(nan);
      EXPECT_TRUE(std::isnan(static_cast<float>(stored))) << std::hex << payload;
      EXPECT_EQ(stored.bits >> 15, sign >> 31);
    }
  }
}

TEST(bf16, overflow_and_infinities) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(bf16(infinity).bits, 0x7F80);
  EXPECT_EQ(bf16(-infinity).bits, 0xFF80);
  // The largest finite bf16 is 0x7F7F; half a step above it is the tie, which goes to the even
  // side.
  EXPECT_EQ(bf16(from_bits(0x7F7F7FFFu)).bits, 0x7F7F);
  EXPECT_EQ(bf16(from_bits(0x7F7F8000u)).bits, 0x7F80);
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_EQ(bf16(-std::numeric_limits<float>::max()).bits, 0xFF80);
}

TEST(bf16, zeros_and_subnormals_keep_their_sign) {
  EXPECT_EQ(bf16(0.0f).bits, 0x0000);
  EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(bf16(from_bits(0x00000001u)).bits, 0x0000);
  EXPECT_EQ(bf16(from_bits(0x80000001u)).bits, 0x8000);
  EXPECT_EQ(bf16(from_bits(0x00008001u)).bits, 0x0001);
  EXPECT_EQ(bf16(from_bits(0x007FFFFFu)).bits, 0x0080);  // up into the normal numbers
}

TEST(dtype, sizes_are_those_of_the_types) {
  EXPECT_EQ(dtype_size(dtype_of<double>::value), sizeof(double));
  EXPECT_EQ(dtype_size(dtype_of<float>::value), sizeof(float));
  EXPECT_EQ(dtype_size(dtype_of<bf16>::value), sizeof(bf16));
  EXPECT_EQ(dtype_size(dtype_of<std::int32_t>::value), sizeof(std::int32_t));
  EXPECT_EQ(dtype_size(dtype_of<std::int64_t>::value), sizeof(std::int64_t));
  EXPECT_EQ(dtype_size(dtype_of<std::uint8_t>::value), sizeof(std::uint8_t));
}

TEST(dtype, accumulators_hold_at_least_single_precision) {
  EXPECT_EQ(accumulator_of(DType::kF64), DType::kF64);
  EXPECT_EQ(accumulator_of(DType::kF32), DType::kF32);
  EXPECT_EQ(accumulator_of(DType::kBF16), DType::kF32);
}

}  // namespace
}  // namespace pg
