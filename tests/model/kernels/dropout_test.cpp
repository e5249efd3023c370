#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

const comm::RandomKey kKey = comm::random_key(3, "dropout test");

template <class T>
class DropoutOp : public ::testing::Test {};
TYPED_TEST_SUITE(DropoutOp, ComputeTypes);

// The mask as the contract defines it, one element at a time.
TYPED_TEST(DropoutOp, survivors_are_scaled_and_the_mask_is_the_one_of_the_contract) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {5, 0, 1'000'000'007'000};
  for (const double rate : {0.1, 0.5, 0.9}) {
    for (const std::int64_t width : {1, 3, 17, 255, 257}) {
      for (const std::int64_t padding : {0, 7}) {
        const std::int64_t length = 9;
        auto x = Matrix<T>::random("x", 3 * length, width, padding);
        const auto before = x;
        kernels->dropout(x.view(), {rate, kKey, samples});
        for (std::int64_t i = 0; i < x.n; ++i) {
          for (std::int64_t j = 0; j < width; ++j) {
            const std::uint32_t bits = comm::random_bits(
                kKey, static_cast<std::uint64_t>(samples[i / length]), i % length * width + j);
            const bool survives = bits * 0x1.0p-32 >= rate;
            const double want = survives ? before(i, j) / (1.0 - rate) : 0.0;
            // The factor 1 / (1 - rate) and the product: two roundings.
            expect_close(x.at(i, j), want, std::fabs(want), 2, place(i, j));
          }
        }
        EXPECT_TRUE(x.padding_is_untouched());
      }
    }
  }
}

TEST(DropoutOp, the_kept_share_is_binomial) {
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {0, 1, 2, 3};
  for (const double rate : {0.01, 0.1, 0.5}) {
    Matrix<float> x(4 * 64, 256);
    x.fill(1.0);
    kernels->dropout(x.view(), {rate, kKey, samples});
    double kept = 0.0;
    for (const float v : x.storage) kept += v != 0.0f;
    const double n = static_cast<double>(x.storage.size());
    // Five standard deviations; the key is fixed, so this holds always or never.
    EXPECT_NEAR(kept, n * (1.0 - rate), 5.0 * std::sqrt(n * rate * (1.0 - rate)));
  }
}

TYPED_TEST(DropoutOp, the_mask_depends_on_the_sample_not_on_the_batch_or_the_team) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t length = 50, width = 129;
  const std::vector<std::int64_t> samples = {7, 3, 12, 4};
  const auto input = Matrix<T>::random("x", 4 * length, width);
  Matrix<T> first(1, 1);
  for_each_team([&](int threads) {
    auto whole = input;
    kernels->dropout(whole.view(), {0.3, kKey, samples});
    if (threads == 1) first = whole;
    EXPECT_TRUE(whole.same_bits(first)) << threads;
  });
  for (std::int64_t b = 0; b < 4; ++b) {
    auto alone = input;
    const auto rows = alone.view().slice(0, b * length, length);
    kernels->dropout(rows, {0.3, kKey, std::span(samples).subspan(b, 1)});
    for (std::int64_t i = b * length; i < (b + 1) * length; ++i) {
      for (std::int64_t j = 0; j < width; ++j) ASSERT_EQ(alone(i, j), first(i, j)) << place(i, j);
    }
  }
}

// Rows cut anywhere: inside sequences, across several, down to one row; and widths that leave a
// piece's first element inside a counter's four words.
TYPED_TEST(DropoutOp, a_piece_of_the_rows_has_its_piece_of_the_mask) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t seq = 23, rows = 4 * seq;
  const std::vector<std::int64_t> samples = {7, 3, 12, 1'000'000'007'000};
  for (const std::int64_t width : {1, 3, 129, 258}) {  // 258: several blocks of 1024 a sequence
    const auto input = Matrix<T>::random("x", rows, width, 5);
    auto whole = input;
    kernels->dropout(whole.view(), {0.3, kKey, samples});
    EXPECT_FALSE(whole.same_bits(input));
    for (const auto& [first, n] : {std::pair<std::int64_t, std::int64_t>{0, rows},
                                   {0, 7},
                                   {5, 1},
                                   {22, 1},
                                   {22, 2},
                                   {23, 23},
                                   {6, 17},
                                   {11, 61},
                                   {46, 40},
                                   {69, 23},
                                   {91, 1},
                                   {92, 0}}) {
      auto piece = input;
      kernels->dropout(
          piece.view().slice(0, first, n),
          {.rate = 0.3, .key = kKey, .samples = samples, .first_row = first, .seq = seq});
      auto want = input;
      for (std::int64_t i = first; i < first + n; ++i) {
        for (std::int64_t j = 0; j < width; ++j) want.at(i, j) = whole.at(i, j);
      }
      EXPECT_TRUE(piece.same_bits(want)) << n << " rows from " << first << ", width " << width;
    }
  }
}

// A rank of a ring holds parts of sequences: its rows have the mask of their positions, whether
// these are runs (zigzag halves, begun and ended anywhere by first_row) or jump from row to row.
TYPED_TEST(DropoutOp, rows_at_given_positions_have_the_mask_of_those_positions) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::int64_t seq = 48, sequences = 3;
  const std::vector<std::int64_t> samples = {7, 3, 1'000'000'007'000};
  std::vector<std::int32_t> zigzag, jumps, descending;
  for (std::int64_t b = 0; b < sequences; ++b) {
    for (const std::int32_t begin : {12, 24}) {  // rank 1 of 2: the second quarter and the third
      for (std::int32_t i = 0; i < 12; ++i) zigzag.push_back(begin + i);
    }
    for (std::int32_t i = 0; i < 24; ++i) jumps.push_back((i * 29 + 5) % 48);
    for (std::int32_t i = 0; i < 24; ++i) descending.push_back(47 - i);
  }
  std::vector<std::int32_t> halves;  // rank 0 of 2: the first quarter and the last
  for (std::int64_t b = 0; b < sequences; ++b) {
    for (const std::int32_t begin : {0, 36}) {
      for (std::int32_t i = 0; i < 12; ++i) halves.push_back(begin + i);
    }
  }
  for (const std::int64_t width : {1, 3, 129, 258}) {
    const auto input = Matrix<T>::random("x", sequences * seq, width, 5);
    auto whole = input;
    kernels->dropout(whole.view(), {0.3, kKey, samples});
    for (auto* positions : {&zigzag, &halves, &jumps, &descending}) {
      const auto rows = static_cast<std::int64_t>(positions->size()), held = rows / sequences;
      const auto at = [&](std::int64_t row) { return row / held * seq + (*positions)[row]; };
      for (const auto& [first, n] : {std::pair<std::int64_t, std::int64_t>{0, rows},
                                     {0, 24},
                                     {5, 1},
                                     {11, 2},
                                     {23, 2},
                                     {7, 60},
                                     {71, 1}}) {
        Matrix<T> x(n, width, 2), want(n, width, 2);
        for (std::int64_t i = 0; i < n; ++i) {
          for (std::int64_t j = 0; j < width; ++j) {
            x.at(i, j) = input.at(at(first + i), j);
            want.at(i, j) = whole.at(at(first + i), j);
          }
        }
        kernels->dropout(x.view(), {.rate = 0.3,
                                    .key = kKey,
                                    .samples = samples,
                                    .first_row = first,
                                    .seq = held,
                                    .positions = view_of(*positions)});
        EXPECT_TRUE(x.same_bits(want)) << n << " rows from " << first << ", width " << width;
      }
    }
  }
}

TEST(DropoutOp, positions_that_do_not_fit_are_bugs) {
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {0, 1};
  auto x = Matrix<float>::random("x", 6, 4);
  const auto run = [&](std::vector<std::int32_t> positions, std::int64_t seq) {
    kernels->dropout(x.view(), {.rate = 0.5,
                                .key = kKey,
                                .samples = samples,
                                .seq = seq,
                                .positions = view_of(positions)});
  };
  EXPECT_NO_THROW(run({0, 1, 2, 9, 8, 7}, 0));
  EXPECT_NO_THROW(run({0, 1, 2, 3, 9, 8, 7, 6}, 4));
  EXPECT_THROW(run({0, 1, 2, 9, 8, 7}, 4), std::exception);
  EXPECT_THROW(run({0, 1, 2, 9, 8}, 0), std::exception);
  EXPECT_THROW(run({0, 1, 2, -1, 8, 7}, 0), std::exception);
}

TEST(DropoutOp, rows_outside_the_sequences_are_bugs) {
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {0, 1};
  auto x = Matrix<float>::random("x", 6, 4);
  const auto run = [&](std::int64_t first_row, std::int64_t seq) {
    kernels->dropout(
        x.view(),
        {.rate = 0.5, .key = kKey, .samples = samples, .first_row = first_row, .seq = seq});
  };
  EXPECT_NO_THROW(run(2, 4));
  EXPECT_THROW(run(3, 4), std::exception);  // rows 3 to 8 of 8
  EXPECT_THROW(run(-1, 4), std::exception);
  EXPECT_THROW(run(1, 0), std::exception);  // a piece of an unknown whole
}

TYPED_TEST(DropoutOp, nan_and_infinity_are_not_dropped) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {0};
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<T> x(8, 33);
    x.fill(bad);
    kernels->dropout(x.view(), {0.5, kKey, samples});
    for (const T v : x.storage) EXPECT_FALSE(std::isfinite(value(v)));
  }
}

TEST(DropoutOp, rate_zero_reads_nothing_else) {
  const auto kernels = make_cpu_kernels(0);
  auto x = Matrix<float>::random("x", 3, 5);
  const auto before = x;
  kernels->dropout(x.view(), {});
  EXPECT_TRUE(x.same_bits(before));
}

}  // namespace
}  // namespace pg::model::testing
