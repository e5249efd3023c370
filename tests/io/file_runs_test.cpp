// Pure parts of saving: which bytes of a slab lie where in the file, and whether values are finite.
#include "io/file_runs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/finite.h"

namespace pg::io {
namespace {

using comm::Slab;
using comm::TensorRecord;

struct Bytes {
  std::int64_t offset, memory;
  std::size_t bytes;
  bool operator==(const Bytes&) const = default;
};

char memory[4096];

std::vector<Bytes> runs_of(const TensorRecord& tensor, std::int64_t begin) {
  std::vector<Bytes> runs;
  for (const auto& run : owned_runs(tensor, begin)) {
    runs.push_back({run.offset, run.data - memory, run.bytes});
  }
  return runs;
}

TEST(FileRuns, rows_are_one_run_and_columns_one_a_row) {
  TensorRecord t{"t", DType::kF32, {4, 6}, {}};
  t.slabs = {{{1, 0}, {2, 6}, memory, true}};
  EXPECT_EQ(runs_of(t, 1000), (std::vector<Bytes>{{1024, 0, 48}}));
  t.slabs = {{{1, 2}, {3, 3}, memory, true}};
  EXPECT_EQ(runs_of(t, 1000), (std::vector<Bytes>{{1032, 0, 12}, {1056, 12, 12}, {1080, 24, 12}}));
  t.slabs[0].owner = false;
  EXPECT_TRUE(runs_of(t, 1000).empty());
  t.slabs = {{{4, 0}, {0, 6}, nullptr, true}};
  EXPECT_TRUE(runs_of(t, 1000).empty());
}

TEST(FileRuns, middle_axes_and_vectors) {
  TensorRecord t{"t", DType::kBF16, {2, 3, 4}, {}};
  t.slabs = {{{0, 1, 0}, {2, 2, 4}, memory, true}};
  EXPECT_EQ(runs_of(t, 0), (std::vector<Bytes>{{8, 0, 16}, {32, 16, 16}}));
  t.slabs = {{{0, 0, 0}, {2, 3, 4}, memory, true}};
  EXPECT_EQ(runs_of(t, 0), (std::vector<Bytes>{{0, 0, 48}}));
  TensorRecord v{"v", DType::kF64, {9}, {{{4}, {3}, memory, true}}};
  EXPECT_EQ(runs_of(v, 8), (std::vector<Bytes>{{40, 0, 24}}));
}

TEST(FileRuns, the_parts_of_a_flat_share_join_in_the_file) {
  TensorRecord t{"t", DType::kU8, {4, 10}, {}};
  // The start of row 3, whole row 2, the end of row 1: given in any order.
  t.slabs = {{{3, 0}, {1, 4}, memory, true},
             {{2, 0}, {1, 10}, memory + 100, true},
             {{1, 7}, {1, 3}, memory + 200, true}};
  const auto runs = owned_runs(t, 0);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[0].offset, 17);
  EXPECT_EQ(joined_runs(runs, 100, 64), 3U);
  EXPECT_EQ(joined_runs(runs, 14, 64), 2U);  // 3 + 10 bytes
  EXPECT_EQ(joined_runs(runs, 100, 2), 2U);
  EXPECT_EQ(joined_runs(runs, 1, 64), 1U);
  EXPECT_EQ(joined_runs(std::span(runs).subspan(2), 100, 64), 1U);
}

template <class T>
void expect_found_everywhere(DType type, const std::vector<T>& bad, const std::vector<T>& good) {
  for (const std::size_t count : {1U, 7U, 4096U, 10000U}) {
    std::vector<T> values(count, good[0]);
    for (std::size_t i = 0; i < count; ++i) values[i] = good[i % good.size()];
    EXPECT_FALSE(first_not_finite(type, values.data(), count));
    for (std::size_t i = 0; i < count; i += 1 + i / 3) {
      for (const auto b : bad) {
        const auto before = std::exchange(values[i], b);
        EXPECT_EQ(first_not_finite(type, values.data(), count), i);
        values[i] = before;
      }
    }
  }
}

TEST(Finite, each_kind_of_bad_value_is_found_at_each_place_and_no_good_one) {
  using Double = std::numeric_limits<double>;
  using Float = std::numeric_limits<float>;
  expect_found_everywhere<double>(
      DType::kF64,
      {Double::quiet_NaN(), -Double::signaling_NaN(), Double::infinity(), -Double::infinity()},
      {0.0, -0.0, Double::max(), Double::lowest(), Double::denorm_min(), 1.0});
  expect_found_everywhere<float>(
      DType::kF32, {Float::quiet_NaN(), -Float::quiet_NaN(), Float::infinity(), -Float::infinity()},
      {0.0F, -0.0F, Float::max(), Float::lowest(), Float::denorm_min(), 1.0F});
  expect_found_everywhere<std::uint16_t>(DType::kBF16, {0x7f80, 0xff80, 0x7f81, 0xffff},
                                         {0, 0x8000, 0x7f7f, 0xff7f, 1});
  const std::vector<std::int64_t> integers(100, -1);
  EXPECT_FALSE(first_not_finite(DType::kI64, integers.data(), integers.size()));
}

}  // namespace
}  // namespace pg::io
