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

// A vocabulary cut unevenly, down to one row: every id's row comes from one part alone, the others
// give zeros, and the positions' rows come with the part that has their table.
TYPED_TEST(Embedding, parts_of_the_vocabulary_give_their_part_of_the_whole) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  auto tokens = draw_tokens(), positions = draw_positions();
  const std::int64_t width = 17, cuts[] = {0, 1, 20, 40, kVocab};  // the last part is never met
  auto table = Matrix<T>::random("table", kVocab, width, 2);
  auto places = Matrix<T>::random("places", kPositions, width);
  auto dx = Matrix<T>::random("dx", kTokens, width, 1);
  Matrix<T> whole(kTokens, width);
  kernels->embedding_forward(whole.view(), view_of(tokens), TensorView(), table.view(),
                             TensorView());
  const auto dtable_before = Matrix<A>::random("dtable", kVocab, width);
  const auto dplaces_before = Matrix<A>::random("dplaces", kPositions, width);
  auto dtable = dtable_before, dparts = dtable_before;
  auto dplaces = dplaces_before;
  kernels->embedding_backward(dtable.view(), dplaces.view(), dx.view(), view_of(tokens),
                              view_of(positions));
  for (std::size_t part = 0; part + 1 < std::size(cuts); ++part) {
    const std::int64_t first = cuts[part], rows = cuts[part + 1] - first;
    const auto own = table.view().slice(0, first, rows);
    Matrix<T> x(kTokens, width, 1), placed(kTokens, width);
    kernels->embedding_forward(x.view(), view_of(tokens), TensorView(), own, TensorView(), first);
    kernels->embedding_forward(placed.view(), view_of(tokens), view_of(positions), own,
                               places.view(), first);
    for (std::int64_t i = 0; i < kTokens; ++i) {
      const bool here = tokens[i] >= first && tokens[i] < first + rows;
      for (std::int64_t j = 0; j < width; ++j) {
        ASSERT_EQ(x(i, j), here ? whole(i, j) : 0.0) << part << place(i, j);
        const A place_value = static_cast<A>(places.at(positions[i], j));
        const A sum = here ? static_cast<A>(whole.at(i, j)) + place_value : place_value;
        ASSERT_EQ(placed(i, j), value(static_cast<T>(sum))) << part << place(i, j);
      }
    }
    EXPECT_TRUE(x.padding_is_untouched());
    auto dplaces_again = dplaces_before;
    kernels->embedding_backward(dparts.view().slice(0, first, rows), dplaces_again.view(),
                                dx.view(), view_of(tokens), view_of(positions), first);
    EXPECT_TRUE(dplaces_again.same_bits(dplaces)) << part;
  }
  EXPECT_TRUE(dparts.same_bits(dtable));  // and nothing was added to a neighbour
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
