// The live grid against the pure algebra, for every shape of the world it runs in.
#include "comm/process_grid.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>

#include "comm/error.h"
#include "tests/comm/grid_shapes.h"

namespace pg::comm {
namespace {

// Group members by asking them: each one's world rank, in group-rank order.
std::vector<WorldRank> asked(Group& group) {
  std::int64_t me = Communicator::world().rank();
  std::vector<std::int64_t> all(static_cast<std::size_t>(group.size()));
  group.all_gather({&me, 1, DType::kI64}, {all.data(), all.size(), DType::kI64}).wait();
  std::vector<WorldRank> ranks;
  for (const auto r : all) ranks.push_back(WorldRank{static_cast<int>(r)});
  return ranks;
}

void expect_group(Group& group, const GridShape& shape, AxisSet axes, std::string_view name) {
  const Coord coord = shape.coord(WorldRank{Communicator::world().rank()});
  const auto members = shape.members(coord, axes);
  EXPECT_EQ(group.name(), name);
  ASSERT_EQ(group.size(), shape.size(axes)) << shape.text() << ' ' << name;
  ASSERT_EQ(group.rank(), shape.index_in(coord, axes)) << shape.text() << ' ' << name;
  ASSERT_EQ(asked(group), members) << shape.text() << ' ' << name;
  // The sum of 3^rank tells every set of members from every other.
  const auto power = [](int rank) {
    std::int64_t p = 1;
    for (int i = 0; i < rank; ++i) p *= 3;
    return p;
  };
  std::int64_t expected = 0;
  for (const WorldRank member : members) expected += power(to_int(member));
  ASSERT_EQ(all_reduce(group, power(Communicator::world().rank()), ReduceOp::kSum), expected)
      << shape.text() << ' ' << name;
}

TEST(process_grid, groups_are_those_of_the_algebra_for_every_shape) {
  const auto world = Communicator::world();
  for (const auto& shape : shapes_of(world.size())) {
    ProcessGrid grid(world, shape);
    EXPECT_EQ(grid.shape(), shape);
    EXPECT_EQ(to_int(grid.rank()), world.rank());
    EXPECT_EQ(grid.coord(), shape.coord(WorldRank{world.rank()}));
    EXPECT_EQ(grid.root(), world.rank() == 0);
    expect_group(grid.world(), shape, {Axis::kPP, Axis::kDP, Axis::kEP, Axis::kCP, Axis::kTP},
                 "world");
    for (int a = 0; a < kAxes; ++a) {
      const auto axis = static_cast<Axis>(a);
      expect_group(grid.axis(axis), shape, {axis}, axis_name(axis));
    }
    expect_group(grid.dense_replicas(), shape, kDenseReplicas, "dp*ep*cp");
    expect_group(grid.expert_replicas(), shape, kExpertReplicas, "dp*cp");
    expect_group(grid.batch(), shape, kBatch, "dp*ep");
    if (HasFatalFailure()) return;
  }
}

TEST(process_grid, pipeline_ends_join_first_and_last_stage_of_equal_coordinates) {
  const auto world = Communicator::world();
  for (const auto& shape : shapes_of(world.size())) {
    ProcessGrid grid(world, shape);
    Group& ends = grid.pipeline_ends();
    EXPECT_EQ(ends.name(), "pp ends");
    const int stages = shape.size(Axis::kPP), stage = grid.coord()[Axis::kPP];
    if (stages == 1 || (stage != 0 && stage != stages - 1)) {
      ASSERT_EQ(ends.size(), 1) << shape.text();
      continue;
    }
    Coord first = grid.coord(), last = grid.coord();
    first[Axis::kPP] = 0;
    last[Axis::kPP] = stages - 1;
    ASSERT_EQ(ends.rank(), stage == 0 ? 0 : 1) << shape.text();
    ASSERT_EQ(asked(ends), (std::vector{shape.rank(first), shape.rank(last)})) << shape.text();
  }
}

TEST(process_grid, tensor_subgroups_are_blocks_of_neighbours) {
  const auto world = Communicator::world();
  for (const auto& shape : shapes_of(world.size())) {
    ProcessGrid grid(world, shape);
    const int tp = shape.size(Axis::kTP);
    for (int size = 1; size <= tp; ++size) {
      if (tp % size != 0) {
        EXPECT_THROW((void)grid.tensor_subgroup(size), Error) << shape.text() << ' ' << size;
        continue;
      }
      const auto block = grid.tensor_subgroup(size);
      const int position = grid.coord()[Axis::kTP];
      EXPECT_EQ(block->name(), "tp/" + std::to_string(size));
      ASSERT_EQ(block->size(), size) << shape.text();
      ASSERT_EQ(block->rank(), position % size) << shape.text() << ' ' << size;
      std::vector<WorldRank> members;
      for (int i = 0; i < size; ++i) {
        Coord member = grid.coord();
        member[Axis::kTP] = position / size * size + i;
        members.push_back(shape.rank(member));
      }
      if (size > 1) {
        ASSERT_EQ(asked(*block), members) << shape.text() << ' ' << size;
      }
    }
    EXPECT_THROW((void)grid.tensor_subgroup(0), Error);
    EXPECT_THROW((void)grid.tensor_subgroup(2 * tp), Error);
  }
}

TEST(process_grid, tensor_subgroup_outlives_the_grid) {
  const auto world = Communicator::world();
  std::unique_ptr<Group> block;
  {
    ProcessGrid grid(world, GridShape(1, world.size(), 1, 1, 1));
    block = grid.tensor_subgroup(world.size());
  }
  EXPECT_EQ(all_reduce(*block, std::int64_t{1}, ReduceOp::kSum), world.size());
}

TEST(process_grid, wrong_rank_product_is_a_deck_error_with_both_numbers) {
  const auto world = Communicator::world();
  try {
    const ProcessGrid grid(world, GridShape(world.size() + 1, 1, 1, 1, 1));
    FAIL() << "made a grid with too many ranks";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDeck);
    EXPECT_EQ(
        std::string(error.what()),
        fmt::format("grid: dp {0} x tp 1 x pp 1 x ep 1 x cp 1 needs {0} ranks, the job has {1}",
                    world.size() + 1, world.size()));
  }
}

TEST(process_grid, places_on_the_host_are_told) {
  const auto world = Communicator::world();
  const ProcessGrid grid(world, GridShape(1, world.size(), 1, 1, 1));
  const auto node = world.split_by_host();
  EXPECT_EQ(grid.host(), host_name());
  EXPECT_EQ(grid.local_rank(), node.rank());
  EXPECT_EQ(grid.local_size(), node.size());
  // All ranks form the one tp group: it shares a host when the node holds the world.
  EXPECT_EQ(grid.tensor_ranks_share_host(), node.size() == world.size());
}

TEST(process_grid, moves_and_lets_go_of_what_it_held) {
  const auto world = Communicator::world();
  ProcessGrid grid(world, GridShape(world.size(), 1, 1, 1, 1));
  ProcessGrid moved(std::move(grid));
  EXPECT_EQ(all_reduce(moved.axis(Axis::kDP), std::int64_t{1}, ReduceOp::kSum), world.size());
  moved = ProcessGrid(world, GridShape(1, 1, world.size(), 1, 1));
  EXPECT_EQ(moved.axis(Axis::kPP).size(), world.size());
  EXPECT_EQ(moved.axis(Axis::kDP).size(), 1);
}

}  // namespace
}  // namespace pg::comm
