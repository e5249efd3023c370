// Reductions of every element type over live ranks: values, NaN, rounding, and that every rank gets
// the same bits (replicas stay equal only by that).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/random.h"

namespace pg::comm {
namespace {

std::unique_ptr<Group> world(std::size_t longest = kLongestMessage) {
  const auto communicator = Communicator::world();
  return make_mpi_group(communicator.split(0, communicator.rank()), "world", longest);
}

template <class T>
BufferView view(std::vector<T>& values) {
  return {values.data(), values.size(), dtype_of<T>::value};
}

template <class T>
class reductions : public testing::Test {};
using Types = testing::Types<double, float, bf16, std::int32_t, std::int64_t, std::uint8_t>;
TYPED_TEST_SUITE(reductions, Types);

template <class T>
T make(int value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return bf16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}
template <class T>
double number(T value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return static_cast<float>(value);
  } else {
    return static_cast<double>(value);
  }
}

// Rank r's element i: 0..15, so that sums over up to 16 ranks are exact in every type (bf16 holds
// the integers to 256).
int element(int rank, std::size_t i) {
  return static_cast<int>((static_cast<std::size_t>(rank) * 7 + i * 5 + i / 3) % 16);
}

double expected(int ranks, std::size_t i, ReduceOp op) {
  double result = element(0, i);
  for (int r = 1; r < ranks; ++r) {
    const double x = element(r, i);
    result = op == ReduceOp::kSum   ? result + x
             : op == ReduceOp::kMax ? std::max(result, x)
                                    : std::min(result, x);
  }
  return result;
}

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};

// Counts around the split of 8 elements, and one past MPI's switches of algorithm (64 KiB).
constexpr std::size_t kCounts[] = {0, 1, 2, 7, 8, 9, 16, 25, 9'000};

TYPED_TEST(reductions, all_reduce_gives_every_rank_the_reduced_values) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{8}}) {
    const auto group = world(longest);
    for (const std::size_t count : kCounts) {
      if (longest == 8 && count > 1000) continue;  // thousands of messages prove nothing more
      for (const ReduceOp op : kOps) {
        std::vector<TypeParam> values;
        for (std::size_t i = 0; i < count; ++i) {
          values.push_back(make<TypeParam>(element(group->rank(), i)));
        }
        group->all_reduce(view(values), op).wait();
        for (std::size_t i = 0; i < count; ++i) {
          ASSERT_EQ(number(values[i]), expected(group->size(), i, op)) << i << " of " << count;
        }
      }
    }
  }
}

TYPED_TEST(reductions, reduce_scatter_gives_each_rank_its_part) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{8}}) {
    const auto group = world(longest);
    const auto ranks = static_cast<std::size_t>(group->size());
    const auto me = static_cast<std::size_t>(group->rank());
    for (const std::size_t count : kCounts) {
      if (longest == 8 && count > 1000) continue;
      for (const ReduceOp op : kOps) {
        std::vector<TypeParam> all;
        for (std::size_t i = 0; i < count * ranks; ++i) {
          all.push_back(make<TypeParam>(element(group->rank(), i)));
        }
        const auto before = all;
        std::vector<TypeParam> part(count, make<TypeParam>(99));
        group->reduce_scatter(view(all), view(part), op).wait();
        for (std::size_t i = 0; i < count; ++i) {
          ASSERT_EQ(number(part[i]), expected(group->size(), me * count + i, op));
          ASSERT_EQ(number(all[me * count + i]), number(before[me * count + i]));
        }
        // The same in place: only this rank's part changes.
        const BufferView own{all.data() + me * count, count, dtype_of<TypeParam>::value};
        group->reduce_scatter(view(all), own, op).wait();
        for (std::size_t i = 0; i < all.size(); ++i) {
          const bool mine = i / std::max<std::size_t>(count, 1) == me;
          ASSERT_EQ(number(all[i]), mine ? expected(group->size(), i, op) : number(before[i]));
        }
      }
    }
  }
}

// Long enough for blocks on any number of ranks: two of 16 MiB, and a rest that does not divide.
TEST(reductions_of_floats, long_all_reduce_keeps_every_element) {
  const auto group = world();
  const auto ranks = static_cast<std::size_t>(group->size());
  const std::size_t count = 33 * (std::size_t{1} << 18) + 2 * ranks + 1;
  constexpr std::size_t kPeriod = 48;  // of element()
  std::vector<float> sums;
  for (std::size_t i = 0; i < kPeriod; ++i) {
    sums.push_back(static_cast<float>(expected(group->size(), i, ReduceOp::kSum)));
  }
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(element(group->rank(), i));
  }
  group->all_reduce(view(values), ReduceOp::kSum).wait();
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(values[i], sums[i % kPeriod]) << i;
}

template <class T>
void expect_nan_survives() {
  const auto group = world();
  for (int bad = 0; bad < group->size(); ++bad) {
    for (const ReduceOp op : kOps) {
      // Numbers on both sides of the rank with the NaN, larger and smaller.
      std::vector<T> values(5, make<T>(group->rank()));
      if (group->rank() == bad) values[2] = T(std::numeric_limits<float>::quiet_NaN());
      group->all_reduce(view(values), op).wait();
      for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(std::isnan(number(values[i])), i == 2) << "element " << i << " bad rank " << bad;
      }
    }
  }
}

TEST(reductions_of_floats, nan_of_any_rank_reaches_all) {
  expect_nan_survives<double>();
  expect_nan_survives<float>();
  expect_nan_survives<bf16>();
}

TEST(reductions_of_floats, negative_maximum_and_infinities) {
  const auto group = world();
  std::vector<double> values{-1.0 - group->rank(), std::numeric_limits<double>::infinity()};
  if (group->rank() == 0) values[1] = -std::numeric_limits<double>::infinity();
  auto smallest = values;
  group->all_reduce(view(values), ReduceOp::kMax).wait();
  group->all_reduce(view(smallest), ReduceOp::kMin).wait();
  EXPECT_EQ(values[0], -1.0);
  EXPECT_EQ(smallest[0], -1.0 * group->size());
  EXPECT_EQ(std::isinf(values[1]) && values[1] > 0, group->size() > 1);
  EXPECT_TRUE(std::isinf(smallest[1]) && smallest[1] < 0);
}

// Two ranks: a + b computed in fp32 and rounded once, against the conversion that dtype_test
// checks.
TEST(reductions_of_floats, bf16_pairs_are_rounded_once) {
  const auto communicator = Communicator::world();
  const auto pair =
      make_mpi_group(communicator.split(communicator.rank() / 2, communicator.rank()), "pair");
  if (pair->size() != 2) return;
  const auto draw = [](int rank, std::size_t i) {
    return bf16(static_cast<float>(random_normal(random_key(3, "pair"), 2 * i + rank)));
  };
  std::vector<bf16> values;
  for (std::size_t i = 0; i < 5000; ++i) values.push_back(draw(pair->rank(), i));
  pair->all_reduce(view(values), ReduceOp::kSum).wait();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float sum = static_cast<float>(draw(0, i)) + static_cast<float>(draw(1, i));
    ASSERT_EQ(values[i].bits, bf16(sum).bits) << i;
  }
}

// Sums of values that do not add up exactly: the order may be anything, but it is one order.
template <class T>
void expect_same_bits(std::size_t count) {
  const auto group = world();
  const auto key = random_key(static_cast<std::uint64_t>(group->rank()), "bits");
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(static_cast<T>(static_cast<float>(random_normal(key, i))));
  }
  const auto before = values;
  group->all_reduce(view(values), ReduceOp::kSum).wait();
  const auto text = [](const std::vector<T>& v) {
    return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T));
  };
  for (const auto& other : all_gather(*group, text(values))) ASSERT_EQ(other, text(values));
  // And the same again on the next call.
  auto again = before;
  group->all_reduce(view(again), ReduceOp::kSum).wait();
  ASSERT_EQ(text(again), text(values));
}

TEST(reductions_of_floats, all_ranks_get_the_same_bits_every_time) {
  for (const std::size_t count : {1u, 13u, 1000u, 40'000u}) {
    expect_same_bits<double>(count);
    expect_same_bits<float>(count);
    expect_same_bits<bf16>(count);
  }
}

// One order on every grid of this size: rank 0's value first. Values that do not add up exactly, so
// that another order gives other bits.
template <class T>
void expect_rank_order() {
  const auto group = world();
  const auto ranks = static_cast<std::size_t>(group->size());
  const std::size_t count = 1001;
  const auto draw = [](int rank, std::size_t i) {
    const auto key = random_key(static_cast<std::uint64_t>(rank), "order");
    return static_cast<T>(static_cast<float>(random_normal(key, i)));
  };
  std::vector<T> all;
  for (std::size_t i = 0; i < count * ranks; ++i) all.push_back(draw(group->rank(), i));
  std::vector<T> part(count);
  group->reduce_scatter(view(all), view(part), ReduceOp::kSum).wait();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = static_cast<std::size_t>(group->rank()) * count + i;
    T sum = draw(0, at);
    for (int r = 1; r < group->size(); ++r) {
      if constexpr (std::is_same_v<T, bf16>) {
        sum = bf16(static_cast<float>(sum) + static_cast<float>(draw(r, at)));
      } else {
        sum += draw(r, at);
      }
    }
    ASSERT_EQ(number(part[i]), number(sum)) << i;
  }
}

TEST(reductions_of_floats, reduce_scatter_adds_in_rank_order) {
  expect_rank_order<double>();
  expect_rank_order<float>();
  expect_rank_order<bf16>();
}

// |computed - exact| <= (n - 1) u sum |x| to first order, for any order of n - 1 additions with
// unit roundoff u = 2^-24; doubled for the higher orders.
TEST(reductions_of_floats, sums_are_within_the_rounding_of_any_order) {
  const auto group = world();
  const auto draw = [](int rank, std::size_t i) {
    return static_cast<float>(
        random_normal(random_key(static_cast<std::uint64_t>(rank), "sum"), i));
  };
  std::vector<float> values;
  for (std::size_t i = 0; i < 20'000; ++i) values.push_back(draw(group->rank(), i));
  group->all_reduce(view(values), ReduceOp::kSum).wait();
  for (std::size_t i = 0; i < values.size(); ++i) {
    double exact = 0, magnitude = 0;
    for (int r = 0; r < group->size(); ++r) {
      exact += static_cast<double>(draw(r, i));
      magnitude += std::fabs(static_cast<double>(draw(r, i)));
    }
    ASSERT_LE(std::fabs(static_cast<double>(values[i]) - exact),
              2 * (group->size() - 1) * 0x1.0p-24 * magnitude);
  }
}

}  // namespace
}  // namespace pg::comm
