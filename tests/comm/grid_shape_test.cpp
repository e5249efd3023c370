#include "comm/grid_shape.h"

#include <gtest/gtest.h>

#include <set>

#include "comm/error.h"
#include "tests/comm/grid_shapes.h"

namespace pg::comm {
namespace {

constexpr int kLargestWorld = 64;

// Shapes of all worlds up to 64 ranks.
std::vector<GridShape> all_shapes() {
  std::vector<GridShape> shapes;
  for (int world = 1; world <= kLargestWorld; ++world) {
    for (const auto& shape : shapes_of(world)) shapes.push_back(shape);
  }
  return shapes;
}

TEST(grid_shape, the_tests_go_through_thousands_of_shapes) {
  // Ordered factorisations of n into 5 factors, summed over n <= 64 (a prime has 5, 64 has 210).
  EXPECT_EQ(shapes_of(1).size(), 1u);
  EXPECT_EQ(shapes_of(7).size(), 5u);
  EXPECT_EQ(shapes_of(64).size(), 210u);
  EXPECT_GT(all_shapes().size(), 1000u);
}

TEST(grid_shape, ranks_and_coordinates_are_one_to_one) {
  for (const auto& shape : all_shapes()) {
    std::set<std::array<int, kAxes>> seen;
    for (int r = 0; r < shape.world(); ++r) {
      const Coord coord = shape.coord(WorldRank{r});
      for (int a = 0; a < kAxes; ++a) {
        ASSERT_GE(coord.at[a], 0);
        ASSERT_LT(coord.at[a], shape.size(static_cast<Axis>(a)));
      }
      ASSERT_EQ(to_int(shape.rank(coord)), r) << shape.text();
      seen.insert(coord.at);
    }
    ASSERT_EQ(static_cast<int>(seen.size()), shape.world());
  }
}

// The order written out once more, as the strides of (pp, dp, ep, cp, tp).
TEST(grid_shape, tp_is_fastest_then_cp_ep_dp_pp) {
  for (const auto& shape : all_shapes()) {
    int stride = 1;
    for (const Axis axis : {Axis::kTP, Axis::kCP, Axis::kEP, Axis::kDP, Axis::kPP}) {
      if (shape.size(axis) > 1) {
        Coord coord;
        coord[axis] = 1;
        ASSERT_EQ(to_int(shape.rank(coord)), stride) << shape.text() << ' ' << axis_name(axis);
      }
      stride *= shape.size(axis);
    }
    ASSERT_EQ(stride, shape.world());
  }
}

TEST(grid_shape, groups_over_any_axes_partition_the_world) {
  for (const auto& shape : all_shapes()) {
    for (const AxisSet axes : axis_sets()) {
      std::vector<int> group_of(static_cast<std::size_t>(shape.world()), -1);
      int groups = 0;
      for (int r = 0; r < shape.world(); ++r) {
        if (group_of[static_cast<std::size_t>(r)] >= 0) continue;
        // A rank in no group yet leads a new one, and all members agree about it.
        const auto members = shape.members(shape.coord(WorldRank{r}), axes);
        ASSERT_EQ(static_cast<int>(members.size()), shape.size(axes)) << shape.text();
        for (const WorldRank member : members) {
          auto& group = group_of[static_cast<std::size_t>(to_int(member))];
          ASSERT_EQ(group, -1) << shape.text();
          group = groups;
        }
        ++groups;
      }
      ASSERT_EQ(groups * shape.size(axes), shape.world());
    }
  }
}

TEST(grid_shape, index_in_a_group_is_the_place_among_its_members) {
  for (const auto& shape : all_shapes()) {
    if (shape.world() > 32) continue;  // quadratic: these worlds are enough
    for (const AxisSet axes : axis_sets()) {
      for (int r = 0; r < shape.world(); ++r) {
        const Coord coord = shape.coord(WorldRank{r});
        const auto members = shape.members(coord, axes);
        const auto index = static_cast<std::size_t>(shape.index_in(coord, axes));
        ASSERT_LT(index, members.size());
        ASSERT_EQ(to_int(members[index]), r) << shape.text();
        for (std::size_t i = 1; i < members.size(); ++i) ASSERT_LT(members[i - 1], members[i]);
      }
    }
  }
}

TEST(grid_shape, members_differ_only_along_the_axes_of_the_group) {
  for (const auto& shape : shapes_of(48)) {
    for (const AxisSet axes : axis_sets()) {
      const Coord mine = shape.coord(WorldRank{29});
      for (const WorldRank member : shape.members(mine, axes)) {
        const Coord other = shape.coord(member);
        for (int a = 0; a < kAxes; ++a) {
          if (!axes.has(static_cast<Axis>(a))) {
            ASSERT_EQ(other.at[a], mine.at[a]);
          }
        }
      }
    }
  }
}

TEST(grid_shape, replica_sets_have_the_sizes_of_the_design) {
  for (const auto& shape : all_shapes()) {
    const auto n = [&](Axis axis) { return shape.size(axis); };
    ASSERT_EQ(shape.size(kDenseReplicas), n(Axis::kDP) * n(Axis::kEP) * n(Axis::kCP));
    ASSERT_EQ(shape.size(kExpertReplicas), n(Axis::kDP) * n(Axis::kCP));
    ASSERT_EQ(shape.size(kBatch), n(Axis::kDP) * n(Axis::kEP));
    // Shards times replicas is everyone, for dense and for expert parameters.
    ASSERT_EQ(shape.size(kDenseReplicas) * shape.size({Axis::kPP, Axis::kTP}), shape.world());
    ASSERT_EQ(shape.size(kExpertReplicas) * shape.size({Axis::kPP, Axis::kTP, Axis::kEP}),
              shape.world());
    ASSERT_EQ(shape.size(AxisSet{}), 1);
  }
}

TEST(grid_shape, a_known_grid_reads_as_expected) {
  // dp 2, tp 2, pp 2, ep 1, cp 1: rank = 4 pp + 2 dp + tp.
  const GridShape shape(2, 2, 2, 1, 1);
  EXPECT_EQ(shape.text(), "dp 2 x tp 2 x pp 2 x ep 1 x cp 1");
  EXPECT_EQ(shape.dims(), (std::array<int, kAxes>{2, 2, 1, 1, 2}));
  const Coord coord = shape.coord(WorldRank{6});
  EXPECT_EQ(coord[Axis::kPP], 1);
  EXPECT_EQ(coord[Axis::kDP], 1);
  EXPECT_EQ(coord[Axis::kTP], 0);
  EXPECT_EQ(shape.members(coord, {Axis::kTP}), (std::vector{WorldRank{6}, WorldRank{7}}));
  EXPECT_EQ(shape.members(coord, {Axis::kDP}), (std::vector{WorldRank{4}, WorldRank{6}}));
  EXPECT_EQ(shape.members(coord, {Axis::kPP}), (std::vector{WorldRank{2}, WorldRank{6}}));
}

TEST(grid_shape, impossible_grids_and_places_are_bugs) {
  EXPECT_THROW(GridShape(0, 1, 1, 1, 1), Error);
  EXPECT_THROW(GridShape(1, 1, -2, 1, 1), Error);
  // 2^31 ranks are one too many for an int, also when a partial product wraps to something small.
  EXPECT_THROW(GridShape(1 << 16, 1 << 15, 1, 1, 1), Error);
  EXPECT_THROW(GridShape(1 << 16, 1 << 16, 1, 1, 1), Error);
  EXPECT_EQ(GridShape(1 << 15, 1 << 15, 1, 1, 1).world(), 1 << 30);
  const GridShape shape(2, 1, 1, 1, 3);
  EXPECT_THROW((void)shape.coord(WorldRank{6}), Error);
  EXPECT_THROW((void)shape.coord(WorldRank{-1}), Error);
  Coord outside;
  outside[Axis::kCP] = 3;
  EXPECT_THROW((void)shape.rank(outside), Error);
}

}  // namespace
}  // namespace pg::comm
