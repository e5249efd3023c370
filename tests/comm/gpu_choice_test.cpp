#include "comm/gpu_choice.h"

#include <gtest/gtest.h>

#include "comm/error.h"
#include "comm/gpu_groups.h"

namespace pg::comm {
namespace {

TEST(gpu_choice, ranks_of_a_host_go_round_its_gpus) {
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(choose_gpu(4, rank, 4).ordinal, rank);
    EXPECT_FALSE(choose_gpu(4, rank, 4).shared);
    EXPECT_EQ(choose_gpu(4, rank, 4).text, "GPU " + std::to_string(rank) + " of 4");
  }
  EXPECT_EQ(choose_gpu(2, 5, 6).ordinal, 1);
  EXPECT_TRUE(choose_gpu(2, 5, 6).shared);
  EXPECT_EQ(choose_gpu(2, 5, 6).text, "GPU 1 of 2, shared: 6 ranks on this host");
}

TEST(gpu_choice, one_visible_gpu_is_a_launchers_binding) {
  EXPECT_EQ(choose_gpu(1, 3, 4).ordinal, 0);
  EXPECT_FALSE(choose_gpu(1, 3, 4).shared);
  EXPECT_THROW((void)choose_gpu(0, 0, 1), Error);
}

TEST(gpu_choice, sharing_is_told_by_ids) {
  EXPECT_FALSE(gpus_are_shared({}));
  EXPECT_FALSE(gpus_are_shared({"b", "a", "c"}));
  EXPECT_TRUE(gpus_are_shared({"b", "a", "b"}));
}

TEST(gpu_choice, blocks_of_all_communicators_fit_the_gpu_together) {
  for (const int processors : {16, 108, 132, 148}) {
    for (int collectives = 1; collectives <= 11; ++collectives) {
      for (const int lanes : {0, 2, 4, 6, 8}) {
        if (collectives + lanes > processors) continue;
        const auto blocks = share_blocks(processors, collectives, lanes);
        EXPECT_GE(blocks.collective, 1);
        EXPECT_GE(blocks.lane, 1);
        EXPECT_LE(blocks.collective, 32);
        EXPECT_LE(collectives * blocks.collective + lanes * blocks.lane, processors)
            << processors << " " << collectives << " " << lanes;
      }
    }
  }
  // Nothing is left unused for no reason: a plain data-parallel job on an H100.
  EXPECT_EQ(share_blocks(132, 5, 0).collective, 26);
  EXPECT_EQ(share_blocks(132, 2, 4).lane, 8);
}

TEST(gpu_choice, lanes_are_both_directions_of_each_neighbour) {
  EXPECT_EQ(lanes_of(1), 0);
  EXPECT_EQ(lanes_of(2), 2);
  EXPECT_EQ(lanes_of(3), 4);
  EXPECT_EQ(lanes_of(8), 4);
}

}  // namespace
}  // namespace pg::comm
