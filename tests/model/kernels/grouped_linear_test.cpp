// Grouped products against plain loops, and that a row's bits are its own: they depend neither on
// the other rows, nor on the row's place, nor on the number of threads.
#include <gtest/gtest.h>

#include "tests/model/kernels/moe_operands.h"

namespace pg::model::testing {
namespace {

// Groups of all kinds: empty ones at both ends and amid, one row, whole blocks of 32, one row more
// and less, and many.
const std::vector<std::vector<std::int64_t>> kSplits = {
    {0, 0}, {0, 1}, {0, 0, 5, 5, 37, 70, 101, 101}, {0, 64, 64, 64, 193, 193}, {0, 300},
};

template <class T>
struct Case {
  using A = acc_of<T>;
  std::int64_t in, out;
  std::vector<std::int64_t> begin;
  Matrix<T> x, y, dy, dx;
  std::vector<Matrix<T>> w, bias;
  std::vector<Matrix<A>> dw, dbias;
  std::vector<TensorView> ws, biases, dws, dbiases;

  Case(std::vector<std::int64_t> split, std::int64_t inputs, std::int64_t outputs,
       std::int64_t padding = 0)
      : in(inputs),
        out(outputs),
        begin(std::move(split)),
        x(Matrix<T>::random("x", begin.back(), in, padding)),
        y(begin.back(), out),
        dy(Matrix<T>::random("dy", begin.back(), out, padding)),
        dx(begin.back(), in) {
    const std::size_t groups = begin.size() - 1;
    for (std::size_t g = 0; g < groups; ++g) {
      const std::string name = std::to_string(g);
      w.push_back(Matrix<T>::random("w" + name, out, in));
      bias.push_back(Matrix<T>::random("bias" + name, 1, out));
      dw.push_back(Matrix<A>::random("dw" + name, out, in));
      dbias.push_back(Matrix<A>::random("dbias" + name, 1, out));
    }
    for (std::size_t g = 0; g < groups; ++g) {
      ws.push_back(w[g].view());
      biases.push_back(bias[g].flat());
      dws.push_back(dw[g].view());
      dbiases.push_back(dbias[g].flat());
    }
  }
  std::size_t group_of(std::int64_t row) const {
    std::size_t g = 0;
    while (begin[g + 1] <= row) ++g;
    return g;
  }
};

template <class T>
class GroupedLinear : public ::testing::Test {};
TYPED_TEST_SUITE(GroupedLinear, ComputeTypes);

// A sum of n products accumulated in any order: n roundings of the sum of their magnitudes (Higham
// 2002, 3.1), as for linear_*.
TYPED_TEST(GroupedLinear, forward_and_backward_match_plain_loops) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& split : kSplits) {
    for (const auto& [in, out, padding] :
         {std::array<std::int64_t, 3>{1, 1, 0}, {40, 23, 0}, {33, 65, 3}}) {
      Case<T> c(split, in, out, padding);
      kernels->weights_changed();  // these may lie where those of the last case lay
      const auto dw_before = c.dw, dbias_before = c.dbias;
      kernels->grouped_linear_forward(c.y.view(), c.x.view(), c.ws, c.biases, c.begin);
      kernels->grouped_linear_backward_input(c.dx.view(), c.dy.view(), c.ws, c.begin);
      kernels->grouped_linear_backward_weight(c.dws, c.dbiases, c.dy.view(), c.x.view(), c.begin);
      Matrix<T> plain(c.begin.back(), out);  // without a bias
      kernels->grouped_linear_forward(plain.view(), c.x.view(), c.ws, {}, c.begin);
      for (std::int64_t i = 0; i < c.begin.back(); ++i) {
        const std::size_t g = c.group_of(i);
        for (std::int64_t o = 0; o < out; ++o) {
          long double sum = 0, magnitude = 0;
          for (std::int64_t k = 0; k < in; ++k) {
            const long double term = static_cast<long double>(c.x(i, k)) * c.w[g](o, k);
            sum += term;
            magnitude += std::fabs(term);
          }
          const double b = c.bias[g](0, o), roundings = static_cast<double>(in) + 2;
          expect_close<T>(plain.at(i, o), static_cast<double>(sum), static_cast<double>(magnitude),
                          roundings, "y" + place(i, o));
          expect_close<T>(c.y.at(i, o), static_cast<double>(sum + b),
                          static_cast<double>(magnitude + std::fabs(b)), roundings,
                          "y + b" + place(i, o));
        }
        for (std::int64_t k = 0; k < in; ++k) {
          long double sum = 0, magnitude = 0;
          for (std::int64_t o = 0; o < out; ++o) {
            const long double term = static_cast<long double>(c.dy(i, o)) * c.w[g](o, k);
            sum += term;
            magnitude += std::fabs(term);
          }
          expect_close<T>(c.dx.at(i, k), static_cast<double>(sum), static_cast<double>(magnitude),
                          static_cast<double>(out) + 2, "dx" + place(i, k));
        }
      }
      for (std::size_t g = 0; g < c.w.size(); ++g) {
        const std::int64_t rows = c.begin[g + 1] - c.begin[g];
        for (std::int64_t o = 0; o < out; ++o) {
          long double column = dbias_before[g](0, o), column_magnitude = std::fabs(column);
          for (std::int64_t i = c.begin[g]; i < c.begin[g + 1]; ++i) {
            column += c.dy(i, o);
            column_magnitude += std::fabs(c.dy(i, o));
          }
          expect_close<A>(c.dbias[g].at(0, o), static_cast<double>(column),
                          static_cast<double>(column_magnitude), static_cast<double>(rows) + 2,
                          "dbias" + place(static_cast<std::int64_t>(g), o));
          for (std::int64_t k = 0; k < in; ++k) {
            if (rows == 0) {
              ASSERT_EQ(c.dw[g](o, k), dw_before[g](o, k));
              continue;
            }
            long double sum = dw_before[g](o, k), magnitude = std::fabs(sum);
            for (std::int64_t i = c.begin[g]; i < c.begin[g + 1]; ++i) {
              const long double term = static_cast<long double>(c.dy(i, o)) * c.x(i, k);
              sum += term;
              magnitude += std::fabs(term);
            }
            expect_close<A>(c.dw[g].at(o, k), static_cast<double>(sum),
                            static_cast<double>(magnitude), static_cast<double>(rows) + 2,
                            "dw" + place(o, k));
          }
        }
      }
    }
  }
}

// One row after another goes through the products alone, and amid other rows: before it in its
// group stand 0 to 70 others, and behind it as many as are left.
TYPED_TEST(GroupedLinear, a_row_has_the_same_bits_alone_and_anywhere_among_others) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const auto& [in, out] :
       {std::pair<std::int64_t, std::int64_t>{33, 65}, {512, 96}, {96, 1030}, {1500, 40}}) {
    Case<T> many({0, 71, 142}, in, out), alone({0, 1}, in, out);
    // Both groups meet the weight that the row alone meets.
    many.w[1] = many.w[0];
    many.bias[1] = many.bias[0];
    for (std::int64_t i = 0; i < 71; ++i) {
      std::copy_n(&many.x.at(5, 0), in, &many.x.at(71 + i, 0));  // row 5 at every place
      std::copy_n(&many.dy.at(5, 0), out, &many.dy.at(71 + i, 0));
    }
    kernels->weights_changed();  // as above
    kernels->grouped_linear_forward(many.y.view(), many.x.view(), many.ws, many.biases, many.begin);
    kernels->grouped_linear_backward_input(many.dx.view(), many.dy.view(), many.ws, many.begin);
    const std::vector<TensorView> w{many.w[0].view()}, bias{many.bias[0].flat()};
    for (const std::int64_t i : {0, 5, 31, 32, 70}) {
      std::copy_n(&many.x.at(i, 0), in, &alone.x.at(0, 0));
      std::copy_n(&many.dy.at(i, 0), out, &alone.dy.at(0, 0));
      kernels->grouped_linear_forward(alone.y.view(), alone.x.view(), w, bias, alone.begin);
      kernels->grouped_linear_backward_input(alone.dx.view(), alone.dy.view(), w, alone.begin);
      EXPECT_EQ(std::memcmp(&alone.y.at(0, 0), &many.y.at(i, 0), out * sizeof(T)), 0) << i;
      EXPECT_EQ(std::memcmp(&alone.dx.at(0, 0), &many.dx.at(i, 0), in * sizeof(T)), 0) << i;
    }
    for (std::int64_t i = 71; i < 142; ++i) {
      ASSERT_EQ(std::memcmp(&many.y.at(i, 0), &many.y.at(5, 0), out * sizeof(T)), 0) << i;
      ASSERT_EQ(std::memcmp(&many.dx.at(i, 0), &many.dx.at(5, 0), in * sizeof(T)), 0) << i;
    }
  }
}

TYPED_TEST(GroupedLinear, activations_are_the_same_bits_for_any_team) {
  using T = TypeParam;
  Case<T> first({0, 71, 71, 300}, 130, 257);
  for (const int threads : {1, 2, 3}) {
    Case<T> c({0, 71, 71, 300}, 130, 257);
    const auto kernels = make_cpu_kernels(threads);
    kernels->grouped_linear_forward(c.y.view(), c.x.view(), c.ws, c.biases, c.begin);
    kernels->grouped_linear_backward_input(c.dx.view(), c.dy.view(), c.ws, c.begin);
    if (threads == 1) {
      first.y = c.y;
      first.dx = c.dx;
    }
    EXPECT_TRUE(c.y.same_bits(first.y) && c.dx.same_bits(first.dx)) << threads << " threads";
    // Weight gradients: on each call with the same team.
    std::vector<Matrix<acc_of<T>>> again = c.dw;
    std::vector<TensorView> views;
    for (auto& m : again) views.push_back(m.view());
    kernels->grouped_linear_backward_weight(c.dws, {}, c.dy.view(), c.x.view(), c.begin);
    kernels->grouped_linear_backward_weight(views, {}, c.dy.view(), c.x.view(), c.begin);
    for (std::size_t g = 0; g < again.size(); ++g) EXPECT_TRUE(again[g].same_bits(c.dw[g]));
  }
  omp_set_num_threads(1);
}

// Packed copies are made anew for the weights that are said to have changed, and only for those.
TYPED_TEST(GroupedLinear, a_changed_weight_is_seen_after_it_is_announced) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(1);
  Case<T> c({0, 40, 80}, 64, 48);
  const auto forward = [&] {
    kernels->grouped_linear_forward(c.y.view(), c.x.view(), c.ws, {}, c.begin);
    return c.y;
  };
  const auto before = forward();
  c.w[1].fill(0.0);
  kernels->weights_changed(c.w[1].view());
  const auto after = forward();
  EXPECT_EQ(std::memcmp(&after.at(0, 0), &before.at(0, 0), 40 * 48 * sizeof(T)), 0);
  for (std::int64_t i = 40; i < 80; ++i) {
    for (std::int64_t o = 0; o < 48; ++o) ASSERT_EQ(after(i, o), 0.0);
  }
  c.w[0].fill(0.0);
  kernels->weights_changed();
  const auto none = forward();
  for (std::int64_t i = 0; i < 80; ++i) ASSERT_EQ(none(i, 0), 0.0);
}

}  // namespace
}  // namespace pg::model::testing
