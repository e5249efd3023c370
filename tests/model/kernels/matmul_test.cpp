// Matrix products through the linear layer's three operations, against plain loops in fp64.
//
// Bounds: a product of K terms accumulated in a format of unit roundoff u is off by at most about K
// u times the sum of |a||b| (Higham 2002, 3.1); inputs are the stored values, so only accumulation
// counts, plus one rounding of the result to its storage type.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "comm/random.h"
#include "model/kernels/cpu/matmul.h"
#include "model/kernels/kernels.h"

namespace pg::model {
namespace {

double unit_roundoff(DType type) {
  return type == DType::kF64 ? 0x1p-53 : type == DType::kF32 ? 0x1p-24 : 0x1p-8;
}

class Matrix {
 public:
  Matrix(DType type, std::int64_t rows, std::int64_t cols, std::uint64_t seed) : type_(type) {
    values_.resize(static_cast<std::size_t>(rows * cols));
    storage_.resize(values_.size() * 8);
    view_ = TensorView(storage_.data(), type, {rows, cols});
    for (std::size_t i = 0; i < values_.size(); ++i) {
      set(i, comm::random_normal(comm::random_key(seed, "matrix"), i));
    }
  }
  void fill(double value) {
    for (std::size_t i = 0; i < values_.size(); ++i) set(i, value);
  }
  double at(std::int64_t i, std::int64_t j) const {
    return get(static_cast<std::size_t>(i * view_.dim(1) + j));
  }
  TensorView view() const { return view_; }
  TensorView vector() const { return view_.reshape({view_.elements()}); }

 private:
  double get(std::size_t i) const {
    if (type_ == DType::kF64) return view_.data<double>()[i];
    if (type_ == DType::kF32) return view_.data<float>()[i];
    return static_cast<float>(view_.data<bf16>()[i]);
  }
  void set(std::size_t i, double value) {
    if (type_ == DType::kF64) view_.data<double>()[i] = value;
    if (type_ == DType::kF32) view_.data<float>()[i] = static_cast<float>(value);
    if (type_ == DType::kBF16) view_.data<bf16>()[i] = bf16(static_cast<float>(value));
  }
  DType type_;
  std::vector<double> values_;
  std::vector<char> storage_;
  TensorView view_;
};

struct Case {
  DType type;
  std::int64_t n, in, out;
};

class Linear : public testing::TestWithParam<Case> {
 protected:
  // |got - sum| within the bound of `terms` products whose magnitudes add up to `magnitude`.
  static void expect_product(double got, double sum, double magnitude, std::int64_t terms,
                             DType inputs, DType result) {
    const double accumulate = unit_roundoff(accumulator_of(inputs));
    const double bound = static_cast<double>(terms + 2) * accumulate * magnitude +
                         unit_roundoff(result) * std::abs(sum) * 1.01;
    EXPECT_NEAR(got, sum, bound);
  }
};

TEST_P(Linear, forward_adds_the_bias) {
  const auto [type, n, in, out] = GetParam();
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(type, n, in, 1), w(type, out, in, 2), b(type, 1, out, 3);
  Matrix y(type, n, out, 4);
  y.fill(NAN);
  kernels->linear_forward(y.view(), x.view(), w.view(), b.vector());
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t o = 0; o < out; ++o) {
      double sum = b.at(0, o), magnitude = std::abs(sum);
      for (std::int64_t k = 0; k < in; ++k) {
        sum += x.at(i, k) * w.at(o, k);
        magnitude += std::abs(x.at(i, k) * w.at(o, k));
      }
      expect_product(y.at(i, o), sum, magnitude, in + 1, type, type);
    }
  }
}

TEST_P(Linear, backward_takes_w_itself_after_forward_took_its_transpose) {
  // Square weights: both directions may like the same packed layout, and must not share the copy.
  const auto [type, n, in, out] = GetParam();
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(type, n, in, 1), w(type, out, in, 2), dy(type, n, out, 3);
  Matrix y(type, n, out, 4), dx(type, n, in, 5);
  dx.fill(NAN);
  kernels->linear_forward(y.view(), x.view(), w.view(), {});
  kernels->linear_backward_input(dx.view(), dy.view(), w.view(), false);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < in; ++k) {
      double sum = 0, magnitude = 0;
      for (std::int64_t o = 0; o < out; ++o) {
        sum += dy.at(i, o) * w.at(o, k);
        magnitude += std::abs(dy.at(i, o) * w.at(o, k));
      }
      expect_product(dx.at(i, k), sum, magnitude, out, type, type);
    }
  }
}

TEST_P(Linear, weight_gradients_add_up_in_the_accumulator_type) {
  const auto [type, n, in, out] = GetParam();
  const auto accumulator = accumulator_of(type);
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(type, n, in, 1), dy(type, n, out, 3);
  Matrix dw(accumulator, out, in, 5), db(accumulator, 1, out, 6);
  dw.fill(0.5);
  db.fill(-0.25);
  kernels->linear_backward_weight(dw.view(), db.vector(), dy.view(), x.view());
  for (std::int64_t o = 0; o < out; ++o) {
    double column = -0.25, column_magnitude = 0.25;
    for (std::int64_t i = 0; i < n; ++i) {
      column += dy.at(i, o);
      column_magnitude += std::abs(dy.at(i, o));
    }
    expect_product(db.at(0, o), column, column_magnitude, n, type, accumulator);
    for (std::int64_t k = 0; k < in; ++k) {
      double sum = 0.5, magnitude = 0.5;
      for (std::int64_t i = 0; i < n; ++i) {
        sum += dy.at(i, o) * x.at(i, k);
        magnitude += std::abs(dy.at(i, o) * x.at(i, k));
      }
      expect_product(dw.at(o, k), sum, magnitude, n + 1, type, accumulator);
    }
  }
}

TEST_P(Linear, packed_weights_follow_a_change_once_told) {
  const auto [type, n, in, out] = GetParam();
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(type, n, in, 1);
  Matrix w(type, out, in, 2), y(type, n, out, 4);
  kernels->linear_forward(y.view(), x.view(), w.view(), {});
  w.fill(0.0);
  kernels->weights_changed();
  kernels->linear_forward(y.view(), x.view(), w.view(), {});
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t o = 0; o < out; ++o) EXPECT_EQ(y.at(i, o), 0.0);
  }
}

// Two weights side by side in memory that is filled anew, as gathered parameters are: each follows
// once its own range is named, seen as bytes of any type.
TEST_P(Linear, packed_weights_follow_a_change_of_their_range) {
  const auto [type, n, in, out] = GetParam();
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(type, n, in, 1);
  Matrix both(type, 2 * out, in, 2), y(type, n, out, 4), want(type, n, out, 4);
  const auto weight = [&](std::int64_t which) { return both.view().slice(0, which * out, out); };
  for (const std::int64_t which : {0, 1}) {
    kernels->linear_forward(y.view(), x.view(), weight(which), {});
  }
  for (const std::int64_t which : {0, 1}) {
    const Matrix fresh(type, out, in, static_cast<std::uint64_t>(6 + which));
    kernels->copy(weight(which), fresh.view());
    const auto numbers = static_cast<std::int64_t>(weight(which).bytes() / 2);
    kernels->weights_changed(TensorView(weight(which).raw(), DType::kBF16, {numbers}));
    kernels->linear_forward(y.view(), x.view(), weight(which), {});
    make_cpu_kernels(1)->linear_forward(want.view(), x.view(), fresh.view(), {});
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t o = 0; o < out; ++o) EXPECT_EQ(y.at(i, o), want.at(i, o));
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto type : {DType::kF64, DType::kF32, DType::kBF16}) {
    for (const auto& [n, in, out] : {std::array<std::int64_t, 3>{1, 1, 1},
                                     {3, 5, 7},
                                     {17, 33, 65},
                                     {64, 64, 64},
                                     {40, 96, 96},
                                     {5, 129, 31}}) {
      all.push_back({type, n, in, out});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Sizes, Linear, testing::ValuesIn(cases()), [](const auto& instance) {
  const auto& c = instance.param;
  return fmt::format("{}_{}x{}x{}", dtype_name(c.type), c.n, c.in, c.out);
});

// Copies of three weights side by side: naming memory of the middle one, even one element of it,
// leaves its neighbours' copies current.
TEST(PackedWeights, outside_a_changed_range_stay_current) {
  constexpr std::int64_t kSize = 96;
  const Matrix x(DType::kF32, 64, kSize, 1), weights(DType::kF32, 3 * kSize, kSize, 2);
  const Matrix y(DType::kF32, 64, kSize, 3);
  MatmulEngine engine;
  const auto multiply = [&] {
    for (std::int64_t i = 0; i < 3; ++i) {
      engine.run({.c = y.view(),
                  .a = x.view(),
                  .b = weights.view().slice(0, i * kSize, kSize),
                  .bias = {},
                  .transpose_b = true,
                  .keep_packed = true});
    }
  };
  multiply();
  const std::size_t all = engine.packed_bytes();
  if (all == 0) GTEST_SKIP() << "oneDNN takes fp32 weights as they are on this processor";
  EXPECT_EQ(engine.current_bytes(), all);
  const TensorView middle = weights.view().slice(0, kSize, kSize);
  const TensorView element = middle.slice(0, 50, 1).slice(1, 7, 1);
  for (const TensorView& range : {middle, element}) {
    engine.forget_packed(range.raw(), range.bytes());
    EXPECT_EQ(engine.current_bytes(), all / 3 * 2);
    multiply();
    EXPECT_EQ(engine.current_bytes(), all);
  }
  engine.forget_packed(middle.raw(), 0);
  EXPECT_EQ(engine.current_bytes(), all);
  engine.forget_packed(weights.view().raw(), weights.view().bytes());
  EXPECT_EQ(engine.current_bytes(), 0u);
  EXPECT_EQ(engine.packed_bytes(), all);
}

TEST(LinearOutput, fp32_logits_come_from_bf16_operands) {
  const auto kernels = make_cpu_kernels(1);
  const Matrix x(DType::kBF16, 9, 40, 1), w(DType::kBF16, 23, 40, 2);
  Matrix y(DType::kF32, 9, 23, 3);
  kernels->linear_forward(y.view(), x.view(), w.view(), {});
  for (std::int64_t i = 0; i < 9; ++i) {
    for (std::int64_t o = 0; o < 23; ++o) {
      double sum = 0, magnitude = 0;
      for (std::int64_t k = 0; k < 40; ++k) {
        sum += x.at(i, k) * w.at(o, k);
        magnitude += std::abs(x.at(i, k) * w.at(o, k));
      }
      EXPECT_NEAR(y.at(i, o), sum, 42 * 0x1p-24 * magnitude);
    }
  }
}

}  // namespace
}  // namespace pg::model
