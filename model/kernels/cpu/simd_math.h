// exp, tanh, sigmoid and silu without branches or calls, so that a loop over floats under
// `#pragma omp simd` becomes vector code (the libm functions stay scalar). NaN in gives NaN out:
// detection of not-finite values depends on it. The overloads for double are libm's, so that fp64
// runs are as accurate as plain code.
//
// Errors against the exact value, asserted by tests/model/kernels/simd_math_test.cpp: exp and tanh
// 2 ulp, sigmoid 3 ulp, silu 4 ulp; a result below 2^-126 within as many denormal steps (silu: |x|
// of them, below 1.5e-43).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace pg::model::cpu {

// exp(x) = 2^n exp(r) with n = round(x / ln 2): Cody & Waite's two-part ln 2 keeps r exact to the
// last bit, and a polynomial of degree 6 covers |r| <= ln(2) / 2.
inline float simd_exp(float x) {
  // Both bounds lie where the result has become 0 or infinity; comparisons that NaN fails keep it.
  constexpr float kLowest = -104.0f, kHighest = 89.0f;
  const float above = x < kLowest ? kLowest : x;
  const float clamped = above > kHighest ? kHighest : above;

  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last mantissa bit is worth 1
  const float shifted = clamped * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  // The first part of ln 2 has nine bits, so its product with n is exact, with or without FMA.
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440054690583e-4f;

  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;

  // 2^n in two factors, as n itself reaches beyond the exponent's range at both ends. The integer
  // is read from the bits of `shifted`: converting NaN would be undefined.
  const auto integer = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) -
                                                 std::bit_cast<std::uint32_t>(kShift));
  const std::int32_t half = integer >> 1;
  const auto power = [](std::int32_t e) {
    return std::bit_cast<float>((static_cast<std::uint32_t>(e) + 127u) << 23);
  };
  return p * power(half) * power(integer - half);
}
inline double simd_exp(double x) {
  return std::exp(x);
}

// An odd polynomial near 0, where the other form cancels, and 1 - 2 / (exp(2|x|) + 1) elsewhere.
inline float simd_tanh(float x) {
  const float magnitude = std::fabs(x);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * x + x;
  const float far = 1.0f - 2.0f / (simd_exp(2.0f * magnitude) + 1.0f);
  return magnitude < 0.625f ? near : std::copysign(far, x);
}
inline double simd_tanh(double x) {
  return std::tanh(x);
}

// 1 / (1 + exp(-x)), with the exponential of a number that is never positive: no overflow, and no
// loss of the small values at the left.
inline float simd_sigmoid(float x) {
  const float e = simd_exp(-std::fabs(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
inline double simd_sigmoid(double x) {
  const double e = std::exp(-std::fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// x * sigmoid(x). silu(-inf) is NaN (-inf * 0), which is meant: infinity is already an error.
inline float simd_silu(float x) {
  return x * simd_sigmoid(x);
}
inline double simd_silu(double x) {
  return x * simd_sigmoid(x);
}

}  // namespace pg::model::cpu
