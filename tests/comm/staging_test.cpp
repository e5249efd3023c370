// What room plans count is what the blocks of an all_reduce need.
#include "comm/staging.h"

#include <gtest/gtest.h>

namespace pg::comm {
namespace {

TEST(Staging, the_first_block_is_the_largest_and_short_rests_remain) {
  for (const int ranks : {2, 3, 4, 5, 7, 8}) {
    const auto n = static_cast<std::size_t>(ranks);
    for (const std::size_t element : {2, 4, 8}) {
      for (const std::size_t count : {1UL, 999'983UL, 8'388'608UL, 38'597'376UL}) {
        if (!all_reduce_in_blocks(ranks, count * element)) {
          EXPECT_EQ(all_reduce_room(ranks, static_cast<std::int64_t>(count), element), 0);
          continue;
        }
        std::size_t left = count, largest = 0;
        while (const auto part = all_reduce_part(ranks, left, element)) {
          ASSERT_LE(part * n, left);
          EXPECT_LE(part * n * element, kReduceBlockBytes);
          largest = std::max(largest, part);
          left -= part * n;
        }
        // A rest has parts below the least one, and so less than one element a rank more.
        EXPECT_LT(left * element, n * (kLeastReducePartBytes + element));
        EXPECT_EQ(all_reduce_room(ranks, static_cast<std::int64_t>(count), element),
                  static_cast<std::int64_t>((n - 1) * largest * element));
      }
    }
  }
}

TEST(Staging, one_rank_and_short_sums_on_powers_of_two_need_nothing) {
  EXPECT_EQ(all_reduce_room(1, 100'000'000, 4), 0);
  EXPECT_EQ(reduce_scatter_room(1, 4096), 0);
  EXPECT_EQ(reduce_scatter_room(4, 4096), 3 * 4096);
  EXPECT_FALSE(all_reduce_in_blocks(4, 2 * kReduceBlockBytes - 1));
  EXPECT_TRUE(all_reduce_in_blocks(4, 2 * kReduceBlockBytes));
}

TEST(Staging, rooms_are_used_again) {
  // Two on their way: the third call finds the first one's room.
  EXPECT_EQ(rooms_after({100, 10, 10, 10, 10}, 2), 110);
  EXPECT_EQ(rooms_after({10, 10, 100, 10}, 2), 110);   // one of two grows
  EXPECT_EQ(rooms_after({100, 10, 10, 100}, 2), 200);  // the large one was taken by a small call
  EXPECT_EQ(rooms_after({5, 6, 7}, 1), 7);
  EXPECT_EQ(rooms_after({5, 6, 7}, 3), 18);
  EXPECT_EQ(rooms_after({}, 2), 0);
}

}  // namespace
}  // namespace pg::comm
