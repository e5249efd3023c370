#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr std::int64_t kVocab = 41, kPositions = 13, kTokens = 259;

// Skewed: low tokens are frequent, the highest never occurs.
std::vector<std::int32_t> draw_tokens() {
  std::vector<std::int32_t> tokens(kTokens);
  for (std::int64_t i = 0; i < kTokens; ++i) {
    const double u = comm::random_bits(comm::random_key(1, "tokens"), 0, i) * 0x1.0p-32;
    tokens[i] = static_cast<std::int32_t>(u * u * (kVocab - 1));
  }
  return tokens;
}

std::vector<std::int32_t> draw_positions() {
  std::vector<std::int32_t> positions(kTokens);
  for (std::int64_t i = 0; i < kTokens; ++i)
    positions[i] = static_cast<std::int32_t>(i % kPositions);
  return positions;
}

template <class T>
class Embedding : public ::testing::Test {};
TYPED_TEST_SUITE(Embedding, ComputeTypes);

TYPED_TEST(Embedding, forward_is_one_rounded_sum_of_two_rows) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  auto tokens = draw_tokens(), positions = draw_positions();
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    auto table = Matrix<T>::random("table", kVocab, width, 2);
    auto places = Matrix<T>::random("places", kPositions, width);
    Matrix<T> x(kTokens, width, 1), plain(kTokens, width);
    kernels->embedding_forward(x.view(), view_of(tokens), view_of(positions), table.view(),
                               places.view());
    kernels->embedding_forward(plain.view(), view_of(tokens), TensorView(), table.view(),
                               TensorView());
    for (std::int64_t i = 0; i < kTokens; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        using A = acc_of<T>;
        const A sum =
            static_cast<A>(table.at(tokens[i], j)) + static_cast<A>(places.at(positions[i], j));
        ASSERT_EQ(x(i, j), value(static_cast<T>(sum))) << place(i, j);
        ASSERT_EQ(plain(i, j), table(tokens[i], j)) << place(i, j);
      }
    }
    EXPECT_TRUE(x.padding_is_untouched());
  }
}

// Not close: equal, as the additions of an element happen in token order whatever the team.
TYPED_TEST(Embedding, backward_adds_in_token_order_for_any_team) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  auto tokens = draw_tokens(), positions = draw_positions();
  for (const std::int64_t width : {1, 3, 17, 255, 257}) {
    auto dx = Matrix<T>::random("dx", kTokens, width, 1);
    const auto table_before = Matrix<A>::random("dtable", kVocab, width);
    const auto places_before = Matrix<A>::random("dplaces", kPositions, width);
    auto want_table = table_before;
    auto want_places = places_before;
    for (std::int64_t i = 0; i < kTokens; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        want_table.at(tokens[i], j) += static_cast<A>(dx.at(i, j));
        want_places.at(positions[i], j) += static_cast<A>(dx.at(i, j));
      }
    }
    for_each_team([&](int threads) {
      auto table = table_before;
      auto places = places_before;
      kernels->embedding_backward(table.view(), places.view(), dx.view(), view_of(tokens),
                                  view_of(positions));
      EXPECT_TRUE(table.same_bits(want_table)) << threads << " threads, width " << width;
      EXPECT_TRUE(places.same_bits(want_places)) << threads << " threads, width " << width;
      auto only = table_before;
      kernels->embedding_backward(only.view(), TensorView(), dx.view(), view_of(tokens),
                                  TensorView());
      EXPECT_TRUE(only.same_bits(want_table)) << threads << " threads, width " << width;
    });
  }
}

TYPED_TEST(Embedding, nan_reaches_its_row_of_the_table_alone) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  std::vector<std::int32_t> tokens = {0, 2, 0};
  auto dx = Matrix<T>::random("dx", 3, 5);
  dx.at(1, 4) = rounded<T>(std::numeric_limits<double>::quiet_NaN());
  Matrix<acc_of<T>> table(3, 5);
  table.fill(0.0);
  kernels->embedding_backward(table.view(), TensorView(), dx.view(), view_of(tokens), TensorView());
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t j = 0; j < 5; ++j) EXPECT_EQ(std::isnan(table(i, j)), i == 2 && j == 4);
  }
}

}  // namespace
}  // namespace pg::model::testing
