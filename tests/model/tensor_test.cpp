#include "model/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <numeric>
#include <vector>

#include "model/arena.h"

namespace pg::model {
namespace {

TEST(TensorView, slices_of_a_packed_activation_keep_its_strides) {
  std::vector<double> packed(6 * 20);
  std::iota(packed.begin(), packed.end(), 0.0);
  const TensorView all(packed.data(), DType::kF64, {6, 20});
  const auto k = all.slice(1, 8, 6).split_last(3).split_first(2);  // [2, 3, 2, 3]
  EXPECT_EQ(k.text(), "fp64[2, 3, 2, 3]");
  EXPECT_FALSE(k.contiguous());
  // Element [b=1, t=2, h=1, d=2] is row 5, column 8 + 1*3 + 2.
  const auto offset = 1 * k.stride(0) + 2 * k.stride(1) + 1 * k.stride(2) + 2 * k.stride(3);
  EXPECT_EQ(k.data<double>()[offset], 5 * 20 + 8 + 5);
}

TEST(TensorView, wrong_types_and_ranges_are_bugs) {
  float x[4] = {};
  const TensorView view(x, DType::kF32, {2, 2});
  EXPECT_THROW(view.data<double>(), Error);
  EXPECT_THROW(view.slice(0, 1, 2), Error);
  EXPECT_THROW(view.reshape({3}), Error);
  EXPECT_THROW(view.slice(1, 0, 1).reshape({2}), Error);
  EXPECT_TRUE(TensorView().empty());
}

TEST(Arena, a_dry_run_counts_what_a_real_one_uses) {
  const auto use = [](Arena& arena) {
    arena.push(DType::kF32, {3, 5});
    {
      const ArenaScope scope(arena);
      arena.push(DType::kBF16, {100});
      arena.push(DType::kF64, {1});
    }
    arena.push(DType::kF32, {1});
    return arena.high_water();
  };
  auto dry = Arena::dry();
  const auto bytes = use(dry);
  Arena real(bytes);
  EXPECT_EQ(use(real), bytes);
  EXPECT_EQ(bytes, 64U + 256U + 64U);
}

TEST(Arena, one_byte_too_many_is_a_bug_and_views_do_not_overlap) {
  Arena arena(128);
  const auto a = arena.push(DType::kF32, {1});
  const auto b = arena.push(DType::kF32, {16});
  EXPECT_EQ(static_cast<char*>(b.raw()) - static_cast<char*>(a.raw()), 64);
  EXPECT_THROW(arena.push(DType::kU8, {1}), Error);
}

TEST(Arena, what_is_only_reserved_may_be_more_than_the_machine_has) {
  int overcommit = 0;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> overcommit;
  if (overcommit == 2) GTEST_SKIP() << "this system commits to every page";
  constexpr std::int64_t kTebibytes = std::int64_t{8} << 40;
  Arena arena(kTebibytes, Buffer::Kind::kReserved);
  const auto row = arena.push(DType::kU8, {4096});
  std::memset(row.raw(), 1, row.bytes());
  arena.push(DType::kU8, {kTebibytes - 4096});
  EXPECT_EQ(arena.high_water(), static_cast<std::size_t>(kTebibytes));
}

}  // namespace
}  // namespace pg::model
