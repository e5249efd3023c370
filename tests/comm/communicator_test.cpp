#include <gtest/gtest.h>
#include <unistd.h>

#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {
namespace {

TEST(communicator, split_parts_ranks_by_color_in_key_order) {
  const auto world = Communicator::world();
  const int me = world.rank(), size = world.size();
  const auto part = world.split(me % 2, -me);  // the highest rank comes first
  const int members = me % 2 == 0 ? (size + 1) / 2 : size / 2;
  ASSERT_TRUE(part);
  EXPECT_EQ(part.size(), members);
  EXPECT_EQ(part.rank(), members - 1 - me / 2);
}

TEST(communicator, negative_color_gives_an_empty_handle) {
  const auto world = Communicator::world();
  const auto part = world.split(world.rank() == 0 ? 0 : -5, 0);
  EXPECT_EQ(static_cast<bool>(part), world.rank() == 0);
  if (part) {
    EXPECT_EQ(part.size(), 1);
  }
}

TEST(communicator, empty_handle_is_refused_everywhere) {
  const Communicator empty;
  EXPECT_FALSE(empty);
  EXPECT_THROW((void)empty.size(), Error);
  EXPECT_THROW((void)empty.rank(), Error);
  EXPECT_THROW((void)empty.raw(), Error);
  EXPECT_THROW((void)empty.split(0, 0), Error);
  EXPECT_THROW((void)make_mpi_group(empty, "empty"), Error);
}

TEST(communicator, copies_share_one_communicator_past_the_first_ones_death) {
  Communicator copy;
  {
    const auto part = Communicator::world().split(0, 0);
    copy = part;
  }
  EXPECT_EQ(copy.size(), Communicator::world().size());
  make_mpi_group(copy, "copy")->barrier();
}

TEST(communicator, self_is_one_rank) {
  EXPECT_EQ(Communicator::self().size(), 1);
  EXPECT_EQ(Communicator::self().rank(), 0);
}

TEST(communicator, ranks_past_the_grid_get_an_empty_handle) {
  const auto world = Communicator::world();
  const int inside = std::max(1, world.size() - 1);
  const auto grid = world.cartesian({inside, 1});
  EXPECT_EQ(static_cast<bool>(grid), world.rank() < inside);
  if (grid) {
    EXPECT_EQ(grid.size(), inside);
    EXPECT_EQ(grid.rank(), world.rank());
    EXPECT_EQ(grid.cut({true, false}).size(), inside);
    EXPECT_EQ(grid.cut({false, true}).size(), 1);
    EXPECT_THROW((void)grid.cut({true}), Error);
  }
}

TEST(communicator, hopeless_grid_is_a_communication_error_naming_the_call) {
  const auto world = Communicator::world();
  try {
    (void)world.cartesian({world.size(), 2});
    FAIL() << "made a grid larger than the world";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("rank " + std::to_string(world.rank()) + " (" + host_name() +
                                 "): MPI_Cart_create failed: "))
        << text;
  }
}

TEST(communicator, cutting_what_is_no_grid_is_a_communication_error) {
  try {
    (void)Communicator::world().cut({true});
    FAIL() << "cut the world";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm) << error.what();
  }
}

TEST(communicator, ranks_of_a_host_share_its_name) {
  const auto node = make_mpi_group(Communicator::world().split_by_host(), "node");
  char name[256] = "";
  ASSERT_EQ(gethostname(name, sizeof name - 1), 0);
  EXPECT_EQ(host_name(), name);
  for (const auto& other : all_gather(*node, host_name())) EXPECT_EQ(other, host_name());
}

}  // namespace
}  // namespace pg::comm
