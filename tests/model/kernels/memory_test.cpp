#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
class Memory : public ::testing::Test {};
TYPED_TEST_SUITE(Memory, ComputeTypes);

TYPED_TEST(Memory, fill_zero_writes_its_rows_and_nothing_else) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    for (const std::int64_t padding : {0, 5}) {
      Matrix<TypeParam> x(131, width, padding);
      kernels->fill_zero(x.view());
      for (std::int64_t i = 0; i < x.n; ++i) {
        for (std::int64_t j = 0; j < width; ++j) ASSERT_EQ(x(i, j), 0.0) << place(i, j);
      }
      EXPECT_TRUE(x.padding_is_untouched());
    }
  }
}

TYPED_TEST(Memory, add_is_one_rounded_addition) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    for (const std::int64_t padding : {0, 5}) {
      auto a = Matrix<T>::random("a", 130, width, padding);
      auto b = Matrix<T>::random("b", 130, width);
      const auto before = a;
      kernels->add(a.view(), b.view());
      for (std::int64_t i = 0; i < a.n; ++i) {
        for (std::int64_t j = 0; j < width; ++j) {
          using A = acc_of<T>;
          const A sum = static_cast<A>(before.at(i, j)) + static_cast<A>(b.at(i, j));
          ASSERT_EQ(a(i, j), value(static_cast<T>(sum))) << place(i, j);
        }
      }
      EXPECT_TRUE(a.padding_is_untouched());
    }
  }
}

template <class To, class From>
void expect_copy_converts(Kernels& kernels) {
  for (const std::int64_t width : {1, 17, 257}) {
    auto from = Matrix<From>::random("from", 129, width, 2, 0.0, 1e3);
    from.at(0, 0) = rounded<From>(kInf);
    from.at(1, 0) = rounded<From>(kNan);
    from.at(2, 0) = rounded<From>(-0.0);
    Matrix<To> to(129, width, 3);
    kernels.copy(to.view(), from.view());
    for (std::int64_t i = 0; i < to.n; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        // Through the accumulator types, as the contract of convert() says.
        const double want = value(
            static_cast<To>(static_cast<acc_of<To>>(static_cast<acc_of<From>>(from.at(i, j)))));
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(to(i, j)));
        } else {
          ASSERT_EQ(to(i, j), want) << place(i, j);
        }
      }
    }
    EXPECT_TRUE(to.padding_is_untouched());
  }
}

TYPED_TEST(Memory, copy_converts_between_every_pair_of_types) {
  const auto kernels = make_cpu_kernels(0);
  expect_copy_converts<double, TypeParam>(*kernels);
  expect_copy_converts<float, TypeParam>(*kernels);
  expect_copy_converts<bf16, TypeParam>(*kernels);
}

TEST(Memory, copy_to_bf16_rounds_to_nearest_even_and_keeps_nan_a_nan) {
  const auto kernels = make_cpu_kernels(0);
  // Ties at half a step above an even and an odd mantissa, a NaN whose payload rounding would carry
  // into infinity, and the largest float, which rounds to infinity.
  const auto bits = [](std::uint32_t u) { return std::bit_cast<float>(u); };
  std::vector<float> from;
  for (int repeat = 0; repeat < 9; ++repeat) {  // long enough to reach the vector loop
    for (const std::uint32_t u :
         {0x3F808000u, 0x3F818000u, 0x7FFFFFFFu, 0x7F7FFFFFu, 0xFF800001u}) {
      from.push_back(bits(u));
    }
  }
  const auto n = static_cast<std::int64_t>(from.size());
  std::vector<bf16> to(n);
  kernels->copy(TensorView(to.data(), DType::kBF16, {n}),
                TensorView(from.data(), DType::kF32, {n}));
  for (std::int64_t i = 0; i < n; i += 5) {
    EXPECT_EQ(to[i].bits, 0x3F80u);
    EXPECT_EQ(to[i + 1].bits, 0x3F82u);
    EXPECT_TRUE(std::isnan(value(to[i + 2])));
    EXPECT_EQ(to[i + 3].bits, 0x7F80u);
    EXPECT_TRUE(std::isnan(value(to[i + 4])));
  }
}

TEST(Memory, copy_follows_the_strides_of_four_axes) {
  const auto kernels = make_cpu_kernels(0);
  std::vector<std::int32_t> from(2 * 3 * 4 * 5), to(2 * 3 * 2 * 5, -1);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::int32_t>(i);
  const TensorView part = TensorView(from.data(), DType::kI32, {2, 3, 4, 5}).slice(2, 1, 2);
  kernels->copy(TensorView(to.data(), DType::kI32, {2, 3, 2, 5}), part);
  std::size_t at = 0;
  for (int a = 0; a < 2; ++a) {
    for (int b = 0; b < 3; ++b) {
      for (int c = 1; c < 3; ++c) {
        for (int d = 0; d < 5; ++d) EXPECT_EQ(to[at++], ((a * 3 + b) * 4 + c) * 5 + d);
      }
    }
  }
}

TEST(Memory, shapes_that_differ_are_a_bug_with_both_shapes) {
  const auto kernels = make_cpu_kernels(0);
  Matrix<float> a(2, 3), b(3, 2);
  try {
    kernels->copy(a.view(), b.view());
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBug);
    const std::string message = error.what();
    EXPECT_NE(message.find("[2, 3]"), std::string::npos) << message;
    EXPECT_NE(message.find("[3, 2]"), std::string::npos) << message;
  }
}

TEST(DryKernels, accept_views_without_storage) {
  const auto kernels = make_dry_kernels();
  const TensorView x(nullptr, DType::kBF16, {4, 8}), f(nullptr, DType::kF32, {4, 8}),
      vector(nullptr, DType::kBF16, {8}), ids(nullptr, DType::kI32, {4}),
      losses(nullptr, DType::kF64, {4}), stats(nullptr, DType::kF64, {1, 4, 3}),
      flat(nullptr, DType::kF32, {32});
  const TensorView heads = x.split_last(4), batch = heads.split_first(2);
  kernels->fill_zero(x);
  kernels->copy(f, x);
  kernels->add(x, x);
  kernels->linear_forward(x, x, x, vector);
  kernels->linear_backward_input(x, x, x, true);
  kernels->linear_backward_weight(f, f, x, x);
  kernels->weights_changed();
  kernels->weights_changed(flat);
  kernels->norm_forward(NormKind::kLayerNorm, x, x, f, x, x, vector, vector, 1e-5);
  kernels->norm_backward(NormKind::kLayerNorm, x, f, f, x, x, f, vector);
  kernels->rope(heads, ids, 1e4, false);
  const Dropout dropout{.rate = 0.5, .key = {}, .samples = {}};
  kernels->attention_forward(batch, f, batch, batch, batch, {}, dropout);
  kernels->attention_backward(batch, batch, batch, batch, batch, batch, batch, batch, f, {},
                              dropout);
  kernels->swiglu_forward(x, x, x);
  kernels->swiglu_backward(x, x, x, x, x);
  kernels->gelu_forward(x, x);
  kernels->gelu_backward(x, x, x);
  kernels->dropout(x, dropout);
  kernels->embedding_forward(x, ids, ids, x, x);
  kernels->embedding_backward(f, f, x, ids, ids);
  kernels->cross_entropy(losses, x, f, ids, 1.0);
  kernels->cross_entropy_stats(stats.reshape({4, 3}), f, ids, 0);
  kernels->cross_entropy_combine(losses, f.slice(1, 0, 2), stats, ids);
  kernels->cross_entropy_gradient(x, f, f.slice(1, 0, 2), ids, 0, 1.0);
  const AdamWTensors tensors{x, flat, flat, flat, flat};
  kernels->adamw({&tensors, 1}, {});
  EXPECT_EQ(sum_of(*kernels, flat), 0.0);
  EXPECT_EQ(squares_of(*kernels, flat), 0.0);
}

}  // namespace
}  // namespace pg::model::testing
