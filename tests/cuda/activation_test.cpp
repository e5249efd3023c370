#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

// The longest chain: exp (2 units in the last place = 4 roundings), the quotient (2 units), its
// argument (5 roundings, which an exponential's argument of at most 8 or so multiplies), products.
constexpr double kRoundings = 64.0;

struct Shape {
  std::int64_t n, width;
};
constexpr Shape kShapes[] = {{1, 1},  {3, 17},   {7, 8},    {5, 129},  {2, 1000},
                             {33, 3}, {1, 4099}, {300, 24}, {4, 2304}, {16, 512}};

std::string name_of(DType type, const Shape& s) {
  return std::string(dtype_name(type)) + " [" + std::to_string(s.n) + ", " +
         std::to_string(s.width) + "]";
}

TEST(CudaActivation, swiglu_of_packed_views) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      Mirror packed(type, {s.n, 2 * s.width}), dpacked(type, {s.n, 2 * s.width});
      Mirror y(type, {s.n, s.width}), dy(type, {s.n, s.width});
      packed.normal("packed", 0.0, 2.0), dy.normal("dy");
      const auto gate = [&](TensorView v) { return v.slice(1, 0, s.width); };
      const auto up = [&](TensorView v) { return v.slice(1, s.width, s.width); };
      both.cpu->swiglu_forward(y.host(), gate(packed.host()), up(packed.host()));
      both.cuda->swiglu_forward(y.device(), gate(packed.device()), up(packed.device()));
      EXPECT_LE(deviation(y), tolerance(type, kRoundings)) << name_of(type, s);

      both.cpu->swiglu_backward(gate(dpacked.host()), up(dpacked.host()), dy.host(),
                                gate(packed.host()), up(packed.host()));
      const auto backward = [&] {
        both.cuda->swiglu_backward(gate(dpacked.device()), up(dpacked.device()), dy.device(),
                                   gate(packed.device()), up(packed.device()));
        return dpacked.from_device();
      };
      const auto first = backward();
      EXPECT_LE(deviation(dpacked), tolerance(type, kRoundings)) << name_of(type, s);
      EXPECT_TRUE(same_bits(first, backward())) << name_of(type, s);
    }
  }
}

TEST(CudaActivation, gelu_whose_gradient_replaces_its_operand) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      Mirror x(type, {s.n, s.width}), y(type, {s.n, s.width}), dy(type, {s.n, s.width});
      Mirror dx(type, {s.n, s.width});
      x.normal("x", 0.0, 2.0), dy.normal("dy");
      both.cpu->gelu_forward(y.host(), x.host());
      both.cuda->gelu_forward(y.device(), x.device());
      EXPECT_LE(deviation(y), tolerance(type, kRoundings)) << name_of(type, s);
      both.cuda->gelu_backward(dx.device(), dy.device(), x.device());
      both.cpu->gelu_backward(dx.host(), dy.host(), x.host());
      EXPECT_LE(deviation(dx), tolerance(type, kRoundings)) << name_of(type, s);
      both.cuda->gelu_backward(dy.device(), dy.device(), x.device());
      EXPECT_TRUE(same_bits(dy.from_device(), dx.from_device())) << name_of(type, s);
    }
  }
}

// The same numbers at other addresses and distances of rows have the same bits.
TEST(CudaActivation, bits_do_not_depend_on_where_the_operands_lie) {
  Backends both;
  constexpr std::int64_t kRows = 5, kWidth = 72;
  for (const auto type : kComputeTypes) {
    Mirror x(type, {kRows, kWidth}), wide(type, {kRows, kWidth + 9});
    Mirror y(type, {kRows, kWidth}), wide_y(type, {kRows, kWidth + 9});
    x.normal("x");
    wide.fill(0.0);
    both.cuda->copy(wide.device().slice(1, 1, kWidth), x.device());
    both.cuda->gelu_forward(y.device(), x.device());
    both.cuda->gelu_forward(wide_y.device().slice(1, 1, kWidth), wide.device().slice(1, 1, kWidth));
    const auto expected = y.from_device(), got = wide_y.from_device();
    for (std::int64_t i = 0; i < kRows; ++i) {
      for (std::int64_t j = 0; j < kWidth; ++j) {
        EXPECT_EQ(expected[static_cast<std::size_t>(i * kWidth + j)],
                  got[static_cast<std::size_t>(i * (kWidth + 9) + 1 + j)]);
      }
      // Between the rows nothing was written.
      EXPECT_TRUE(std::isnan(got[static_cast<std::size_t>(i * (kWidth + 9))]));
    }
  }
}

TEST(CudaActivation, extremes) {
  Backends both;
  const std::vector<double> values = {0.0,    -0.0,  1e-30,  -1e-30, 5.0,      -5.0,     90.0,
                                      -90.0,  200.0, -200.0, 1e4,    -1e4,     INFINITY, NAN,
                                      -100.0, 88.7,  -88.7,  -104.0, 0.044715, -INFINITY};
  const auto n = static_cast<std::int64_t>(values.size());
  for (const auto type : kComputeTypes) {
    Mirror x(type, {1, n}), ones(type, {1, n}), y(type, {1, n});
    x.values(values), ones.fill(1.0);
    both.cpu->gelu_forward(y.host(), x.host());
    both.cuda->gelu_forward(y.device(), x.device());
    const auto check = [&] {
      const auto got = y.from_device();
      for (std::int64_t i = 0; i < n; ++i) {
        const double a = y.at_host(i), b = got[static_cast<std::size_t>(i)];
        EXPECT_EQ(std::isnan(a), std::isnan(b)) << values[static_cast<std::size_t>(i)];
        if (std::isnan(a) || a == b) continue;
        // Far to the left both are denormal or zero, where only the absolute error means something.
        EXPECT_LE(std::fabs(a - b), tolerance(type, 4 * kRoundings) * std::fabs(a) + 1e-36)
            << values[static_cast<std::size_t>(i)];
      }
    };
    check();
    both.cpu->swiglu_forward(y.host(), x.host(), ones.host());
    both.cuda->swiglu_forward(y.device(), x.device(), ones.device());
    check();
  }
}

TEST(CudaActivation, no_rows_and_shapes_that_do_not_fit) {
  Backends both;
  Mirror x(DType::kF32, {4, 8}), y(DType::kF32, {4, 8});
  y.fill(3.0);
  const auto before = y.from_device();
  both.cuda->gelu_forward(y.device().slice(0, 0, 0), x.device().slice(0, 0, 0));
  EXPECT_TRUE(same_bits(before, y.from_device()));
  EXPECT_THROW(both.cuda->gelu_forward(y.device(), x.device().slice(1, 0, 4)), Error);
  EXPECT_THROW(both.cuda->gelu_forward(y.host(), x.device()), Error);
}

// The comparison sees an error of a few roundings of one element's type.
TEST(CudaActivation, control_another_function_is_found) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror x(type, {16, 40}), y(type, {16, 40}), ones(type, {16, 40});
    x.normal("x"), ones.fill(1.0);
    both.cpu->gelu_forward(y.host(), x.host());
    both.cuda->swiglu_forward(y.device(), x.device(), ones.device());  // x sigmoid(x)
    EXPECT_GT(deviation(y), tolerance(type, kRoundings));
  }
}

}  // namespace
}  // namespace pg::model::testing
