// Counting what groups are asked to carry, over dry groups (whose size is free) and live ones.
#include "comm/traffic.h"

#include <gtest/gtest.h>

#include <vector>

#include "comm/dry_group.h"
#include "comm/error.h"
#include "comm/mpi_session.h"
#include "comm/process_grid.h"

namespace pg::comm {
namespace {

BufferView floats(std::size_t count) {
  return {nullptr, count, DType::kF32};
}

const TrafficRow* find(const std::vector<TrafficRow>& rows, std::string_view group,
                       std::string_view operation) {
  for (const auto& row : rows) {
    if (row.group == group && operation_name(row.operation) == operation) return &row;
  }
  return nullptr;
}

void expect_row(const std::vector<TrafficRow>& rows, std::string_view group,
                std::string_view operation, std::int64_t calls, std::int64_t payload,
                double least) {
  const auto* row = find(rows, group, operation);
  ASSERT_NE(row, nullptr) << group << ' ' << operation;
  EXPECT_EQ(row->calls, calls) << group << ' ' << operation;
  EXPECT_EQ(row->payload, payload) << group << ' ' << operation;
  EXPECT_DOUBLE_EQ(row->least_sent, least) << group << ' ' << operation;
}

// Five ranks, by hand: 4-byte elements, parts of 10.
TEST(traffic, each_operation_counts_calls_payload_and_the_least_to_send) {
  Traffic traffic;
  const auto group = make_counted_group(make_dry_group("g", 5, 2), traffic);
  for (int i = 0; i < 3; ++i) group->all_reduce(floats(50), ReduceOp::kMax).wait();
  group->all_gather(floats(10), floats(50)).wait();
  group->reduce_scatter(floats(50), floats(10), ReduceOp::kSum).wait();
  const std::vector<std::size_t> to{1, 2, 3, 4, 0}, from{0, 0, 3, 0, 0};
  group->all_to_all(floats(10), to, floats(3), from).wait();
  all_to_all(*group, floats(5), floats(5)).wait();
  group->broadcast(floats(50), 4).wait();
  group->send(floats(7), 3, 0).wait();
  group->send(floats(0), 3, 0).wait();
  group->recv({nullptr, 7, DType::kBF16}, 1, 0).wait();
  group->barrier();

  const auto rows = traffic.rows();
  ASSERT_EQ(rows.size(), 8u);
  expect_row(rows, "g", "all_reduce", 3, 600, 3 * 2 * 0.8 * 200);
  expect_row(rows, "g", "all_gather", 1, 200, 0.8 * 200);
  expect_row(rows, "g", "reduce_scatter", 1, 200, 0.8 * 200);
  // All but the 3 and the 1 that stay.
  expect_row(rows, "g", "all_to_all", 2, 40 + 20, 4 * 7 + 4 * 4);
  expect_row(rows, "g", "broadcast", 1, 200, 0.8 * 200);
  expect_row(rows, "g", "send", 2, 28, 28);
  expect_row(rows, "g", "recv", 1, 14, 0);
  expect_row(rows, "g", "barrier", 1, 0, 0);
}

// Exactly: a share of the payload would be rounded.
TEST(traffic, all_to_all_counts_whole_bytes_that_leave) {
  Traffic traffic;
  const auto group = make_counted_group(make_dry_group("g", 2, 0), traffic);
  for (std::size_t stays = 0; stays < 60; ++stays) {
    for (std::size_t leaves = 0; leaves < 60; ++leaves) {
      traffic.reset();
      const std::vector<std::size_t> to{stays, leaves}, from{stays, 0};
      group->all_to_all(floats(stays + leaves), to, floats(stays), from).wait();
      ASSERT_EQ(traffic.rows().front().least_sent, static_cast<double>(4 * leaves))
          << "besides " << stays;
    }
  }
}

TEST(traffic, rows_are_in_one_order_whatever_was_called_first) {
  Traffic traffic;
  const auto b = make_counted_group(make_dry_group("b", 2, 0), traffic);
  const auto a = make_counted_group(make_dry_group("a", 2, 0), traffic);
  b->barrier();
  b->send(floats(1), 1, 0).wait();
  b->all_reduce(floats(1), ReduceOp::kSum).wait();
  a->recv(floats(1), 1, 0).wait();
  std::vector<std::string> order;
  for (const auto& row : traffic.rows())
    order.push_back(row.group + ' ' + operation_name(row.operation));
  EXPECT_EQ(order, (std::vector<std::string>{"a recv", "b all_reduce", "b send", "b barrier"}));
}

TEST(traffic, reset_forgets_and_counting_goes_on) {
  Traffic traffic;
  const auto group = make_counted_group(make_dry_group("g", 2, 0), traffic);
  group->all_reduce(floats(8), ReduceOp::kSum).wait();
  traffic.reset();
  EXPECT_TRUE(traffic.rows().empty());
  group->all_reduce(floats(1), ReduceOp::kSum).wait();
  expect_row(traffic.rows(), "g", "all_reduce", 1, 4, 4);
}

TEST(traffic, groups_of_one_name_are_one_and_may_outlive_the_table) {
  auto traffic = std::make_unique<Traffic>();
  const auto first = make_counted_group(make_dry_group("g", 2, 0), *traffic);
  const auto second = make_counted_group(make_dry_group("g", 4, 1), *traffic);
  first->broadcast(floats(10), 0).wait();
  second->broadcast(floats(10), 0).wait();
  expect_row(traffic->rows(), "g", "broadcast", 2, 80, 0.5 * 40 + 0.75 * 40);
  traffic.reset();
  first->broadcast(floats(10), 0).wait();
}

TEST(traffic, one_rank_counts_nothing_and_refused_calls_do_not_count) {
  Traffic traffic;
  const auto alone = make_counted_group(make_self_group("alone"), traffic);
  EXPECT_EQ(all_reduce(*alone, 3.0, ReduceOp::kSum), 3.0);
  alone->barrier();
  EXPECT_TRUE(traffic.rows().empty());
  const auto pair = make_counted_group(make_dry_group("pair", 2, 0), traffic);
  EXPECT_THROW((void)pair->broadcast(floats(1), 2), Error);
  // Fewer counts than ranks: refused before they are read.
  EXPECT_THROW((void)pair->all_to_all(floats(0), {}, floats(0), {}), Error);
  EXPECT_TRUE(traffic.rows().empty());
}

// The wrapped group does what it did: the values of a live one.
TEST(traffic, counted_groups_carry_the_values_of_the_inner_one) {
  Traffic traffic;
  const auto world = Communicator::world();
  const auto group =
      make_counted_group(make_mpi_group(world.split(0, world.rank()), "all"), traffic);
  const int n = group->size(), me = group->rank();
  EXPECT_EQ(group->name(), "all");
  EXPECT_EQ(n, world.size());
  EXPECT_EQ(me, world.rank());
  EXPECT_EQ(all_reduce(*group, std::int64_t{me}, ReduceOp::kSum), n * (n - 1) / 2);
  EXPECT_EQ(broadcast(*group, std::to_string(me), n - 1), std::to_string(n - 1));
  const auto texts = all_gather(*group, std::to_string(me));
  for (int r = 0; r < n; ++r) EXPECT_EQ(texts[static_cast<std::size_t>(r)], std::to_string(r));
  std::vector<std::int64_t> whole(static_cast<std::size_t>(n), 1);
  std::int64_t part = 0;
  group
      ->reduce_scatter({whole.data(), whole.size(), DType::kI64}, {&part, 1, DType::kI64},
                       ReduceOp::kSum)
      .wait();
  EXPECT_EQ(part, n);
  std::int64_t got = -1, mine = me;
  if (n > 1) {
    auto receiving = group->recv({&got, 1, DType::kI64}, (me + n - 1) % n, 1);
    group->send({&mine, 1, DType::kI64}, (me + 1) % n, 1).wait();
    receiving.wait();
    EXPECT_EQ(got, (me + n - 1) % n);
    // Conveniences are made of these: a length and then the text, each way.
    const auto rows = traffic.rows();
    EXPECT_EQ(find(rows, "all", "all_reduce")->payload, 8);
    EXPECT_EQ(find(rows, "all", "broadcast")->calls, 2);
    EXPECT_EQ(find(rows, "all", "all_gather")->payload, n * (8 + 1));
  } else {
    EXPECT_TRUE(traffic.rows().empty());
  }
}

// Every group that the grid hands out counts, under its name, and from zero.
TEST(traffic, grid_counts_all_its_groups_from_zero) {
  const auto world = Communicator::world();
  const int n = world.size();
  const auto names_after = [](ProcessGrid& grid, Group& group) {
    grid.traffic().reset();
    group.barrier();
    std::vector<std::string> names;
    for (const auto& row : grid.traffic().rows()) names.push_back(row.group);
    return names;
  };
  for (int a = 0; a < kAxes; ++a) {
    std::array<int, kAxes> sizes{1, 1, 1, 1, 1};
    sizes[static_cast<std::size_t>(a)] = n;
    const auto [pp, dp, ep, cp, tp] = sizes;
    ProcessGrid grid(world, GridShape(dp, tp, pp, ep, cp));
    EXPECT_TRUE(grid.traffic().rows().empty());
    const auto axis = static_cast<Axis>(a);
    const auto blocks = grid.tensor_subgroup(tp);
    for (Group* group :
         {&grid.world(), &grid.axis(axis), &grid.dense_replicas(), &grid.expert_replicas(),
          &grid.batch(), &grid.pipeline_ends(), blocks.get()}) {
      const auto expected =
          group->size() == 1 ? std::vector<std::string>{} : std::vector{std::string(group->name())};
      EXPECT_EQ(names_after(grid, *group), expected) << group->name();
    }
    ProcessGrid moved(std::move(grid));
    EXPECT_EQ(names_after(moved, moved.world()).size(), n == 1 ? 0u : 1u);
  }
}

}  // namespace
}  // namespace pg::comm
