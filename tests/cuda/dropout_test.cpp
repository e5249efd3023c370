#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

Dropout dropout_of(double rate, const std::vector<std::int64_t>& samples) {
  Dropout d;
  d.rate = rate;
  d.key = comm::random_key(3, "dropout");
  d.samples = samples;
  return d;
}

std::vector<std::int64_t> numbers(std::int64_t count) {
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < count; ++i) samples.push_back(5 + 3 * i + (i % 2 << 33));
  return samples;
}

// A kept element is one product of the same two numbers on both sides: equal, not close.
TEST(CudaDropout, masks_and_values_are_the_cpus_bit_by_bit) {
  Backends both;
  struct Case {
    std::int64_t sequences, length, width;
  };
  for (const auto type : kComputeTypes) {
    for (const auto& c : std::vector<Case>{{1, 1, 1},
                                           {2, 3, 1},
                                           {3, 5, 17},
                                           {1, 7, 129},
                                           {2, 4, 64},
                                           {5, 2, 30},
                                           {130, 2, 8},
                                           {1, 2, 4100},
                                           {70, 3, 5}}) {
      const auto samples = numbers(c.sequences);
      Mirror x(type, {c.sequences * c.length, c.width});
      x.normal("x");
      for (const double rate : {0.0, 0.1, 0.5, 0.9}) {
        both.cpu->dropout(x.host(), dropout_of(rate, samples));
        both.cuda->dropout(x.device(), dropout_of(rate, samples));
        EXPECT_TRUE(same(x)) << dtype_name(type) << " " << c.sequences << "x" << c.length << "x"
                             << c.width << " rate " << rate;
      }
    }
  }
}

TEST(CudaDropout, rows_of_a_piece_have_the_mask_of_the_whole) {
  Backends both;
  constexpr std::int64_t kSequences = 67, kLength = 6;
  const auto samples = numbers(kSequences);
  for (const auto type : kComputeTypes) {
    for (const std::int64_t width : {3, 16, 22}) {
      for (const std::int64_t first : {0, 1, 5, 6, 17}) {
        for (const std::int64_t rows : {1, 4, 13, 385}) {
          Mirror x(type, {rows, width});
          x.normal("x");
          auto d = dropout_of(0.3, samples);
          d.first_row = first, d.seq = kLength;
          both.cpu->dropout(x.host(), d);
          both.cuda->dropout(x.device(), d);
          EXPECT_TRUE(same(x)) << dtype_name(type) << " width " << width << " rows " << first
                               << " + " << rows;
        }
      }
    }
  }
}

TEST(CudaDropout, rows_at_given_positions) {
  Backends both;
  constexpr std::int64_t kSequences = 3, kLength = 8;
  const auto samples = numbers(kSequences);
  Mirror positions(DType::kI32, {kSequences * kLength});
  positions.whole("positions", 0, 100000);
  for (const auto type : kComputeTypes) {
    for (const std::int64_t width : {1, 7, 32}) {
      for (const std::int64_t first : {0, 3}) {
        Mirror x(type, {13, width});
        x.normal("x");
        auto d = dropout_of(0.4, samples);
        d.first_row = first, d.seq = kLength, d.positions = positions.host();
        both.cpu->dropout(x.host(), d);
        d.positions = positions.device();
        both.cuda->dropout(x.device(), d);
        EXPECT_TRUE(same(x)) << dtype_name(type) << " width " << width;
      }
    }
  }
}

TEST(CudaDropout, strided_rows_and_what_lies_between_them) {
  Backends both;
  const auto samples = numbers(2);
  for (const auto type : kComputeTypes) {
    for (const std::int64_t at : {0, 1, 16}) {
      for (const std::int64_t width : {16, 11}) {
        Mirror x(type, {10, 48});
        x.normal("x");
        both.cpu->dropout(x.host().slice(1, at, width), dropout_of(0.5, samples));
        both.cuda->dropout(x.device().slice(1, at, width), dropout_of(0.5, samples));
        EXPECT_TRUE(same(x)) << dtype_name(type) << " at " << at << " width " << width;
      }
    }
  }
}

TEST(CudaDropout, what_is_not_finite_stays_visible_where_it_is_dropped) {
  Backends both;
  const auto samples = numbers(1);
  for (const auto type : kComputeTypes) {
    Mirror x(type, {1, 64});
    x.fill(INFINITY);
    both.cpu->dropout(x.host(), dropout_of(0.5, samples));
    both.cuda->dropout(x.device(), dropout_of(0.5, samples));
    EXPECT_TRUE(same(x));
    int nans = 0;
    for (const double value : x.from_device()) nans += std::isnan(value) ? 1 : 0;
    EXPECT_GT(nans, 0);
  }
}

TEST(CudaDropout, control_another_sequence_has_another_mask) {
  Backends both;
  Mirror x(DType::kF32, {4, 32});
  x.normal("x");
  const std::vector<std::int64_t> one = {1}, other = {2};
  both.cpu->dropout(x.host(), dropout_of(0.5, one));
  both.cuda->dropout(x.device(), dropout_of(0.5, other));
  EXPECT_FALSE(same(x));
}

}  // namespace
}  // namespace pg::model::testing
