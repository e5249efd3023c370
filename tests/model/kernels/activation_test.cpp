#include <gtest/gtest.h>

#include <limits>
#include <numbers>

#include "tests/model/kernels/gradient_check.h"
#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

// The vectorised sigmoid is within 3 ulp (6 roundings), libm's exp within 1 ulp. Results below the
// normal range of fp32 may lose all digits.
constexpr double kFloor = 0x1.0p-120;

long double sigmoid(long double x) {
  return 1.0L / (1.0L + std::exp(-x));
}

// The derivative of x sigmoid(x).
long double silu_slope(long double x) {
  const long double s = sigmoid(x);
  return s * (1.0L + x * (1.0L - s));
}

constexpr long double kCubic = 0.044715L;
const long double kRoot = std::sqrt(2.0L / std::numbers::pi_v<long double>);

// As the paper writes it: x/2 (1 + tanh u). For negative x the sum cancels, so the reference itself
// is off by kReference |x| (and its slope by as much of its terms).
constexpr double kReference = 2.0 * std::numeric_limits<long double>::epsilon();
long double gelu(long double x) {
  return 0.5L * x * (1.0L + std::tanh(kRoot * (x + kCubic * x * x * x)));
}
long double gelu_slope(long double x) {
  const long double t = std::tanh(kRoot * (x + kCubic * x * x * x));
  return 0.5L * (1.0L + t) + 0.5L * x * (1.0L - t * t) * kRoot * (1.0L + 3.0L * kCubic * x * x);
}

// Normal values, and some where sigmoid and tanh have long saturated.
template <class T>
Matrix<T> inputs(std::string_view name, std::int64_t n, std::int64_t width) {
  auto x = Matrix<T>::random(name, n, width, 0, 0.0, 2.0);
  constexpr double kSpecial[] = {0.0, -0.0, 30.0, -30.0, 8.0, -8.0};
  for (std::int64_t i = 0; i < std::min<std::int64_t>(n, 6); ++i) {
    x.at(i, i % width) = rounded<T>(kSpecial[i]);
  }
  return x;
}

template <class T>
class Activation : public ::testing::Test {};
TYPED_TEST_SUITE(Activation, ComputeTypes);

TYPED_TEST(Activation, swiglu_matches_the_definition_on_halves_of_a_packed_activation) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    const std::int64_t n = 71;
    auto packed = inputs<T>("packed", n, 2 * width);
    auto dy = Matrix<T>::random("dy", n, width, 2);
    Matrix<T> y(n, width, 1), dpacked(n, 2 * width);
    const TensorView gate = packed.view().slice(1, 0, width);
    const TensorView up = packed.view().slice(1, width, width);
    kernels->swiglu_forward(y.view(), gate, up);
    kernels->swiglu_backward(dpacked.view().slice(1, 0, width),
                             dpacked.view().slice(1, width, width), dy.view(), gate, up);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        const double g = packed(i, j), u = packed(i, width + j), d = dy(i, j);
        const auto s = static_cast<double>(sigmoid(g));
        // silu: 4 ulp and one product.
        const double want = g * s * u;
        expect_close(y.at(i, j), want, std::fabs(want), 10, "y" + place(i, j), kFloor);
        expect_close(dpacked.at(i, width + j), d * g * s, std::fabs(d * g * s), 10,
                     "dup" + place(i, j), kFloor);
        // s carries 6 roundings, 1 - s 7 (of 1), the products 6: 24 of |d u| s (1 + |g|) cover it.
        expect_close(dpacked.at(i, j), static_cast<double>(d * u * silu_slope(g)),
                     std::fabs(d * u) * s * (1.0 + std::fabs(g)), 24, "dgate" + place(i, j),
                     kFloor);
      }
    }
    EXPECT_TRUE(y.padding_is_untouched());
  }
}

TYPED_TEST(Activation, gelu_matches_the_definition) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    const std::int64_t n = 71;
    auto x = inputs<T>("x", n, width);
    auto dy = Matrix<T>::random("dy", n, width, 2);
    Matrix<T> y(n, width, 1), dx(n, width, 3);
    kernels->gelu_forward(y.view(), x.view());
    kernels->gelu_backward(dx.view(), dy.view(), x.view());
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        const double v = x(i, j), d = dy(i, j);
        const auto twice_u = static_cast<double>(2.0L * kRoot * (v + kCubic * v * v * v));
        const auto s = static_cast<double>(sigmoid(twice_u));
        // The argument 2u is off by 6 roundings of |2u| (both its terms have one sign), which
        // sigmoid passes on times (1 - s) relative; sigmoid itself 6, products 2.
        const double passed_on = 1.0 + std::fabs(twice_u) * (1.0 - s);
        expect_close(y.at(i, j), static_cast<double>(gelu(v)), std::fabs(v) * s * passed_on, 10,
                     "y" + place(i, j), kFloor + kReference * std::fabs(v));
        // Further: the slope of 2u 5 roundings, 1 - s 7 of 1, products and sum 5.
        const double slope = static_cast<double>(2.0L * kRoot * (1.0L + 3.0L * kCubic * v * v));
        expect_close(dx.at(i, j), static_cast<double>(d * gelu_slope(v)),
                     std::fabs(d) * s * passed_on * (1.0 + std::fabs(v) * slope), 30,
                     "dx" + place(i, j),
                     kFloor + kReference * std::fabs(d) * (1.0 + std::fabs(v) * slope));
      }
    }
    EXPECT_TRUE(y.padding_is_untouched() && dx.padding_is_untouched());
  }
}

TEST(Activation, backward_is_the_gradient_of_forward) {
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t n = 3, width = 17;
  auto gate = Matrix<double>::random("gate", n, width);
  auto up = Matrix<double>::random("up", n, width);
  auto dy = Matrix<double>::random("dy", n, width);
  Matrix<double> y(n, width), dgate(n, width), dup(n, width);
  kernels->swiglu_backward(dgate.view(), dup.view(), dy.view(), gate.view(), up.view());
  expect_gradients_match([&] { kernels->swiglu_forward(y.view(), gate.view(), up.view()); },
                         y.storage, dy.storage,
                         {{"gate", gate.storage, dgate.storage}, {"up", up.storage, dup.storage}});
  kernels->gelu_backward(dgate.view(), dy.view(), gate.view());
  expect_gradients_match([&] { kernels->gelu_forward(y.view(), gate.view()); }, y.storage,
                         dy.storage, {{"x", gate.storage, dgate.storage}});
}

TYPED_TEST(Activation, results_are_the_same_bits_for_any_team_and_in_place) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t n = 300, width = 129;
  auto gate = Matrix<T>::random("gate", n, width), up = Matrix<T>::random("up", n, width);
  auto dy = Matrix<T>::random("dy", n, width);
  Matrix<T> first_y(1, 1), first_dgate(1, 1), first_dup(1, 1), first_gelu(1, 1), first_dx(1, 1);
  for_each_team([&](int threads) {
    Matrix<T> y(n, width), dgate(n, width), dup(n, width), by_gelu(n, width), dx(n, width);
    kernels->swiglu_forward(y.view(), gate.view(), up.view());
    kernels->swiglu_backward(dgate.view(), dup.view(), dy.view(), gate.view(), up.view());
    kernels->gelu_forward(by_gelu.view(), gate.view());
    kernels->gelu_backward(dx.view(), dy.view(), gate.view());
    if (threads == 1) {
      first_y = y, first_dgate = dgate, first_dup = dup, first_gelu = by_gelu, first_dx = dx;
    }
    EXPECT_TRUE(y.same_bits(first_y) && dgate.same_bits(first_dgate) && dup.same_bits(first_dup));
    EXPECT_TRUE(by_gelu.same_bits(first_gelu) && dx.same_bits(first_dx));
  });
  // The gradients over the inputs that they are computed from.
  auto gate2 = gate, up2 = up, x2 = gate;
  kernels->swiglu_backward(gate2.view(), up2.view(), dy.view(), gate2.view(), up2.view());
  kernels->gelu_backward(x2.view(), dy.view(), x2.view());
  EXPECT_TRUE(gate2.same_bits(first_dgate) && up2.same_bits(first_dup) && x2.same_bits(first_dx));
}

TYPED_TEST(Activation, nan_in_is_nan_out) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  Matrix<T> ones(1, 40), nan(1, 40), y(1, 40), other(1, 40);  // a Matrix starts as NaN
  ones.fill(1.0);
  const auto all_nan = [](const Matrix<T>& m) {
    for (std::int64_t j = 0; j < m.width; ++j) {
      if (!std::isnan(m(0, j))) return false;
    }
    return true;
  };
  y.fill(0.0);
  kernels->gelu_forward(y.view(), nan.view());
  EXPECT_TRUE(all_nan(y));
  y.fill(0.0);
  kernels->gelu_backward(y.view(), ones.view(), nan.view());
  EXPECT_TRUE(all_nan(y));
  for (auto [gate, up] : {std::pair{&nan, &ones}, std::pair{&ones, &nan}}) {
    y.fill(0.0);
    kernels->swiglu_forward(y.view(), gate->view(), up->view());
    EXPECT_TRUE(all_nan(y));
    kernels->swiglu_backward(y.view(), other.view(), ones.view(), gate->view(), up->view());
    EXPECT_TRUE(all_nan(y));
  }
}

}  // namespace
}  // namespace pg::model::testing
