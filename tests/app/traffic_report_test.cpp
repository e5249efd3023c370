// The report of a step's traffic: sums over all ranks, and every group that a grid hands out has a
// place in it.
#include "app/traffic_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "comm/process_grid.h"

namespace pg::testing {
namespace {

TEST(TrafficReport, sums_every_group_over_all_ranks) {
  comm::ProcessGrid grid(comm::Communicator::world(), comm::GridShape(1, 2, 2, 1, 1));
  const auto copies = grid.tensor_subgroup(2);
  grid.traffic().reset();
  double number = 1;
  const comm::BufferView one{&number, 1, DType::kF64, Device::kCpu};
  for (auto* group : {&grid.axis(comm::Axis::kTP), &grid.axis(comm::Axis::kPP), copies.get(),
                      &grid.pipeline_ends(), &grid.world()}) {
    group->all_reduce(one, comm::ReduceOp::kSum).wait();
  }
  const auto json = nlohmann::json::parse(app::traffic_json(grid.world(), grid.traffic().rows()));
  // Four ranks with a call of 8 bytes each; the least is 2 (n-1)/n of it.
  for (const char* name : {"tp", "pp", "kv copies", "pp ends", "world"}) {
    const auto& row = json.at(name).at("all_reduce");
    EXPECT_EQ(row.at("calls"), 4) << name;
    EXPECT_EQ(row.at("bytes"), 32) << name;
    EXPECT_EQ(row.at("least_sent"), std::string(name) == "world" ? 48 : 32) << name;
  }
  EXPECT_EQ(json.size(), 5U);
}

TEST(TrafficReport, every_group_of_a_grid_has_a_place) {
  for (const auto& shape : {comm::GridShape(4, 1, 1, 1, 1), comm::GridShape(1, 1, 1, 4, 1),
                            comm::GridShape(1, 1, 1, 1, 4), comm::GridShape(2, 1, 1, 2, 1)}) {
    comm::ProcessGrid grid(comm::Communicator::world(), shape);
    grid.traffic().reset();
    double number = 1;
    for (auto* group :
         {&grid.axis(comm::Axis::kDP), &grid.axis(comm::Axis::kEP), &grid.axis(comm::Axis::kCP),
          &grid.dense_replicas(), &grid.expert_replicas(), &grid.batch()}) {
      group->all_reduce({&number, 1, DType::kF64, Device::kCpu}, comm::ReduceOp::kSum).wait();
    }
    const auto json = nlohmann::json::parse(app::traffic_json(grid.world(), grid.traffic().rows()));
    EXPECT_GE(json.size(), 2U) << shape.text();
  }
}

}  // namespace
}  // namespace pg::testing
