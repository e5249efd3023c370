// The backward of attention against finite differences of its forward, in fp64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/model/kernels/attention_reference.h"

namespace pg::model {
namespace {

using testing::AttentionCase;

struct Operands {
  explicit Operands(const AttentionCase& shape)
      : c(shape),
        in(testing::random_input(c, 11)),
        samples(testing::sample_numbers(c)),
        o(in.q.size()),
        lse(static_cast<std::size_t>(c.sequences * c.heads * c.length)),
        kernels(make_cpu_kernels(1)) {}

  TensorView view(std::vector<double>& x, std::int64_t heads) {
    return TensorView(x.data(), DType::kF64, {c.sequences, c.length, heads, c.size});
  }
  TensorView keys(std::vector<double>& x) {
    return TensorView(x.data(), DType::kF64, {c.sequences, c.key_count(), c.kv_heads, c.size});
  }
  TensorView lse_view() {
    return TensorView(lse.data(), DType::kF64, {c.sequences, c.heads, c.length});
  }
  Dropout dropout() const { return {c.rate, testing::mask_key(), samples}; }

  // sum(d_o o): its gradient is what backward computes.
  double loss() {
    kernels->attention_forward(view(o, c.heads), lse_view(), view(in.q, c.heads), keys(in.k),
                               keys(in.v), c.shape(), dropout());
    double sum = 0.0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += o[i] * in.d_o[i];
    return sum;
  }

  AttentionCase c;
  testing::AttentionInput in;
  std::vector<std::int64_t> samples;
  std::vector<double> o, lse;
  std::unique_ptr<Kernels> kernels;
};

// Central differences with step h = 1e-4, extrapolated once: (4 D(h/2) - D(h)) / 3 has an error of
// h^4 f^(5) / 480 + 3 eps |f| / h. Derivatives of o by a score are of order one, and a score moves
// by scale * |k| < 2 for a unit of q: f^(5) < 2^5 sum|d_o| ~ 1e4, so 2e-15 + 7e-12 |f|, |f| < 200.
constexpr double kStep = 1e-4, kTolerance = 2e-9;

void expect_slopes(const char* name, Operands& x, std::vector<double>& input,
                   const std::vector<double>& gradient) {
  double largest = 0.0;
  for (std::size_t i = 0; i < input.size(); ++i) {
    const double centre = input[i];
    const auto slope = [&](double h) {
      input[i] = centre + h;
      const double above = x.loss();
      input[i] = centre - h;
      const double below = x.loss();
      input[i] = centre;
      return (above - below) / (2.0 * h);
    };
    const double expected = (4.0 * slope(kStep / 2.0) - slope(kStep)) / 3.0;
    ASSERT_NEAR(gradient[i], expected, kTolerance) << name << "[" << i << "]";
    largest = std::max(largest, std::abs(expected));
  }
  EXPECT_GT(largest, 1e-2) << name << ": a check of zeros proves nothing";
}

void expect_backward_matches(const AttentionCase& c) {
  SCOPED_TRACE(c.text());
  Operands x(c);
  x.loss();
  const double poison = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> dq(x.in.q.size(), poison), dk(x.in.k.size(), poison),
      dv(x.in.v.size(), poison);
  x.kernels->attention_backward(x.view(dq, c.heads), x.keys(dk), x.keys(dv),
                                x.view(x.in.d_o, c.heads), x.view(x.in.q, c.heads), x.keys(x.in.k),
                                x.keys(x.in.v), x.view(x.o, c.heads), x.lse_view(), x.c.shape(),
                                x.dropout());
  expect_slopes("dq", x, x.in.q, dq);
  expect_slopes("dk", x, x.in.k, dk);
  expect_slopes("dv", x, x.in.v, dv);
}

TEST(AttentionGradient, matches_finite_differences) {
  for (const auto& c :
       {AttentionCase{2, 9, 4, 2, 6, 0, 0.0, 0.4}, AttentionCase{1, 11, 2, 1, 3, 4, 0.3, 0.5},
        AttentionCase{1, 35, 1, 1, 2, 0, 0.3, 0.7}}) {
    expect_backward_matches(c);
  }
}

// Queries at 5 to 15 against keys at 3 to 12, some of which are seen by none of them, as some
// queries see none: the differences are exactly 0 there.
TEST(AttentionGradient, of_a_part_with_window_documents_and_dropout_matches_finite_differences) {
  AttentionCase c{2, 11, 4, 2, 3, 5, 0.2, 0.5};
  c.first_query = 5;
  c.first_key = 3;
  c.key_length = 10;
  c.seq = 20;
  c.visible_from = {4, 4, 4, 4, 4, 4, 4, 12, 12, 12, 12, 0, 0, 0, 8, 8, 10, 10, 10, 10, 14, 14};
  expect_backward_matches(c);
}

}  // namespace
}  // namespace pg::model
