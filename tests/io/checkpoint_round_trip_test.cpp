// Tensors come back bit by bit, whatever ranks wrote them and whatever ranks read them.
#include <cmath>

#include "checkpoint_state.h"
#include "comm/agree.h"

namespace pg::io {
namespace {

using comm::Communicator;

std::unique_ptr<comm::Group> world_group() {
  return comm::make_mpi_group(Communicator::world(), "test");
}

TEST(CheckpointRoundTrip, tensors_written_on_n_ranks_load_on_m_ranks_bitwise) {
  const auto world = Communicator::world();
  const auto group = world_group();
  const TestDirectory directory(*group);
  std::string first_bytes;
  for (int writers = 1; writers <= world.size(); ++writers) {
    const auto part = world.split(world.rank() < writers ? 0 : -1, world.rank());
    const auto path = directory.path() / checkpoint_name(writers);
    if (part) {
      TestState state(awkward_plans(), part.rank(), part.size());
      state.fill(1);
      EXPECT_EQ(save_checkpoint(part, directory, test_info(writers), state.tensors()), path);
    }
    group->barrier();
    // Neither the grid nor the time is in the tensors' file.
    const auto bytes = bytes_of(path / "state.h5");
    if (first_bytes.empty()) first_bytes = bytes;
    EXPECT_TRUE(bytes == first_bytes) << writers << " writers made other bytes";

    for (int readers = 1; readers <= world.size(); ++readers) {
      const auto reading = world.split(world.rank() < readers ? 0 : -1, world.rank());
      if (!reading) continue;
      TestState state(awkward_plans(), reading.rank(), reading.size());
      state.clear();
      load_checkpoint(reading, path, state.tensors());
      EXPECT_EQ(state.wrong(1), 0) << writers << " writers, " << readers << " readers";
    }
    group->barrier();
  }
}

TEST(CheckpointRoundTrip, a_slab_without_an_owner_is_a_bug_on_all_ranks) {
  const auto world = Communicator::world();
  const auto group = world_group();
  const TestDirectory directory(*group);
  TestState state(tiny_plans(), world.rank(), world.size());
  for (auto& slab : state.tensors()[0].slabs) slab.owner = false;
  const auto what = error_of(
      ExitCode::kBug, [&] { save_checkpoint(world, directory, test_info(1), state.tensors()); });
  expect_contains(what, "norm.weight");
  group->barrier();
  EXPECT_TRUE(names_in(directory).empty());
}

TEST(CheckpointRoundTrip, another_list_of_tensors_on_one_rank_is_a_bug_on_all_ranks) {
  const auto world = Communicator::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto group = world_group();
  const TestDirectory directory(*group);
  TestState state(tiny_plans(), world.rank(), world.size());
  if (world.rank() == world.size() - 1) state.tensors()[0].name = "norm.weird";
  error_of(ExitCode::kBug,
           [&] { save_checkpoint(world, directory, test_info(1), state.tensors()); });
}

TEST(CheckpointRoundTrip, every_tensor_that_does_not_fit_is_listed_on_all_ranks) {
  const auto world = Communicator::world();
  const auto group = world_group();
  const TestDirectory directory(*group);
  TestState state(tiny_plans(), world.rank(), world.size());
  state.fill(1);
  const auto path = save_checkpoint(world, directory, test_info(1), state.tensors());

  const std::vector<TensorPlan> others = {{"norm.weight", DType::kF64, {5}, Cut::kReplicated},
                                          {"blocks.0.q.weight", DType::kBF16, {5, 3}, Cut::kRows},
                                          {"blocks.1.q.weight", DType::kBF16, {3, 5}, Cut::kRows}};
  TestState other(others, world.rank(), world.size());
  other.clear();
  const auto what =
      error_of(ExitCode::kCheckpoint, [&] { load_checkpoint(world, path, other.tensors()); });
  expect_contains(what, "state.h5");
  expect_contains(what, "norm.weight is fp32 [5], this run has fp64 [5]");
  expect_contains(what, "blocks.0.q.weight is bf16 [3, 5], this run has bf16 [5, 3]");
  expect_contains(what, "blocks.1.q.weight is missing");
  expect_contains(what, "adam.m.blocks.0.q.weight is superfluous");
}

TEST(CheckpointRoundTrip, an_entry_of_the_same_step_is_replaced_and_nothing_else_stays) {
  const auto world = Communicator::world();
  const auto group = world_group();
  const TestDirectory directory(*group);
  TestState state(tiny_plans(), world.rank(), world.size());
  for (const int version : {1, 2}) {
    state.fill(version);
    save_checkpoint(world, directory, test_info(4), state.tensors());
  }
  group->barrier();
  EXPECT_EQ(names_in(directory), std::vector<std::string>{"step-000000004"});
  state.clear();
  load_checkpoint(world, directory.path() / "step-000000004", state.tensors());
  EXPECT_EQ(state.wrong(2), 0);
}

TEST(CheckpointRoundTrip, transfers_longer_than_the_staging_memory_are_cut) {
  // 4.5 M elements of 8 bytes are 36 MB: more than one rank's transfer of 32 MiB, in every cut.
  const auto world = Communicator::world();
  const auto group = world_group();
  const TestDirectory directory(*group);
  for (const auto cut : {Cut::kRows, Cut::kColumns, Cut::kFlat}) {
    const std::vector<TensorPlan> plans = {{"large", DType::kF64, {3, 1500001}, cut}};
    TestState state(plans, world.rank(), world.size());
    const auto each = [&](auto visit) {
      for (auto& slab : state.tensors()[0].slabs) {
        auto* data = static_cast<double*>(slab.data);
        for (std::int64_t r = 0; r < slab.extent[0]; ++r) {
          for (std::int64_t c = 0; c < slab.extent[1]; ++c) {
            const auto index = (slab.offset[0] + r) * 1500001 + slab.offset[1] + c;
            visit(data[r * slab.extent[1] + c], static_cast<double>(index) + 0.5);
          }
        }
      }
    };
    each([](double& value, double expected) { value = expected; });
    const auto path = save_checkpoint(world, directory, test_info(1), state.tensors());
    state.clear();
    load_checkpoint(world, path, state.tensors());
    std::int64_t wrong = 0;
    each([&](double& value, double expected) { wrong += value != expected; });
    EXPECT_EQ(wrong, 0) << "cut " << static_cast<int>(cut);
    group->barrier();
  }
}

}  // namespace
}  // namespace pg::io
