// What orders communication and computation on the GPU, what does not, and how failures end.
#include <string>

#include "comm/process_grid.h"
#include "comm/random.h"
#include "tests/cuda/comm/flow.h"

namespace pg::comm::testing {
namespace {

std::vector<float> draws(int rank, std::size_t count) {
  std::vector<float> values;
  const auto key = random_key(static_cast<std::uint64_t>(rank), "draws");
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(random_normal(key, i)));
  }
  return values;
}

template <class F>
void expect_error(ExitCode code, const std::vector<std::string>& parts, const F& f) {
  try {
    f();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const auto& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << part << " in: " << error.what();
    }
  }
}

// Values whose sums depend on the order.
TEST(groups_on_gpu, sums_have_the_same_bits_on_all_ranks_and_every_time) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    std::vector<std::string> seen;
    for (int repeat = 0; repeat < 2; ++repeat) {
      Flow<float> x(gpu, draws(group->rank(), 999));
      group->all_reduce(x.view(), ReduceOp::kSum).wait();
      x.read();
      gpu.synchronize();
      const auto values = x.values();
      const std::string bits(reinterpret_cast<const char*>(values.data()), 4 * values.size());
      for (const auto& other : all_gather(*group, bits)) EXPECT_EQ(other, bits);
      seen.push_back(bits);
    }
    EXPECT_EQ(seen[0], seen[1]);
  });
}

// Each result is the next call's input; waits come in another order than the calls.
TEST(groups_on_gpu, two_groups_interleave) {
  on_each_carrier(
      [](Carrier carrier, const Gpu& gpu) {
        const auto world = Communicator::world();
        const auto all = make_group(carrier, world, "all", gpu);
        const auto pair =
            make_group(carrier, world.split(world.rank() / 2, world.rank()), "pair", gpu);
        for (int step = 0; step < 5; ++step) {
          Flow<std::int64_t> x(gpu, std::vector<std::int64_t>(100, world.rank() + 1)),
              y(gpu, std::vector<std::int64_t>(300, step)), z(gpu, 100),
              w(gpu, std::vector<std::int64_t>(100, 10 * world.rank()));
          auto a = all->all_reduce(x.view(), ReduceOp::kSum);
          auto b = pair->all_reduce(y.view(), ReduceOp::kSum);
          auto c = pair->broadcast(w.view(), pair->size() - 1);
          a.wait();
          gpu_copy_on(gpu.compute(), z.view().data, x.view().data, x.view().bytes());
          auto d = all->all_reduce(z.view(), ReduceOp::kMax);
          b.wait();
          c.wait();
          d.wait();
          x.read();
          y.read();
          z.read();
          w.read();
          gpu.synchronize();
          const std::int64_t sum = world.size() * (world.size() + 1) / 2;
          ASSERT_EQ(x.values(), std::vector<std::int64_t>(100, sum));
          ASSERT_EQ(y.values(), std::vector<std::int64_t>(300, step * pair->size()));
          ASSERT_EQ(z.values(), std::vector<std::int64_t>(100, sum));
          const int last = world.rank() / 2 * 2 + pair->size() - 1;
          ASSERT_EQ(w.values(), std::vector<std::int64_t>(100, 10 * last));
        }
      },
      6);
}

TEST(groups_on_gpu, host_buffers_and_barriers_beside_work_on_the_gpu) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    Flow<std::int32_t> x(gpu, std::vector<std::int32_t>(50, 2));
    auto flying = group->all_reduce(x.view(), ReduceOp::kSum);
    EXPECT_EQ(all_reduce(*group, std::int64_t{1}, ReduceOp::kSum), group->size());
    EXPECT_EQ(all_reduce(*group, 1.0 * group->rank(), ReduceOp::kMax), group->size() - 1);
    group->barrier();
    flying.wait();
    x.read();
    gpu.synchronize();
    EXPECT_EQ(x.values(), std::vector<std::int32_t>(50, 2 * group->size()));
  });
}

TEST(groups_on_gpu, pending_calls_may_outlive_their_group) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    Flow<std::int32_t> x(gpu, std::vector<std::int32_t>(50, 3));
    const int size = Communicator::world().size();
    Pending flying;
    {
      const auto group = make_group(carrier, Communicator::world(), "world", gpu);
      flying = group->all_reduce(x.view(), ReduceOp::kSum);
    }
    flying.wait();
    x.read();
    gpu.synchronize();
    EXPECT_EQ(x.values(), std::vector<std::int32_t>(50, 3 * size));
  });
}

// The control of all tests here: what is read without the wait is found.
TEST(groups_on_gpu, wait_left_out_is_found) {
  const auto world = Communicator::world();
  if (world.size() == 1) return;
  int wrong = 0;
  for (int seed = 1; seed <= 20; ++seed) {
    const Gpu gpu(choose(seed, world.size()));
    if (gpu.info().name != "simulated GPU") GTEST_SKIP() << "a real GPU may be lucky";
    const auto group = make_group(Carrier::kNccl, world, "world", gpu);
    Flow<std::int32_t> x(gpu, std::vector<std::int32_t>(50, 1)), y(gpu, 50);
    auto forgotten = group->all_reduce(x.view(), ReduceOp::kSum);
    x.read();
    gpu.synchronize();
    wrong += x.values()[0] != world.size();
  }
  EXPECT_GT(wrong, 0);
}

TEST(groups_on_gpu, wrong_calls_are_bugs) {
  on_each_carrier(
      [](Carrier carrier, const Gpu& gpu) {
        const auto group = make_group(carrier, Communicator::world(), "world", gpu);
        Flow<float> x(gpu, 12), y(gpu, 12);
        float there[12];
        const auto bug = [](const std::string& part, const auto& call) {
          expect_error(ExitCode::kBug, {part}, call);
        };
        bug("maximum or minimum of fp32",
            [&] { (void)group->all_reduce(x.view(), ReduceOp::kMax); });
        bug("one buffer on the host", [&] {
          (void)group->all_gather(x.part(0, 1),
                                  {there, static_cast<std::size_t>(group->size()), DType::kF32});
        });
        bug("at null", [&] {
          (void)group->broadcast({nullptr, 3, DType::kF32, Device::kCuda}, 0);
        });
        bug("rank 99", [&] { (void)group->broadcast(x.view(), 99); });
        if (carrier == Carrier::kNccl && group->size() > 3) {
          bug("message between",
              [&] { (void)group->send(x.view(), (group->rank() + 2) % group->size(), 0); });
        }
      },
      1);
}

TEST(groups_on_gpu, carrier_is_chosen_by_who_shares) {
  const auto world = Communicator::world();
  const int size = world.size();
  for (const int gpus : {size, 1}) {
    Gpu gpu(choose(1, gpus));
    if (gpu.info().name != "simulated GPU") GTEST_SKIP();
    ProcessGrid grid(world, GridShape(1, 1, size, 1, 1), &gpu);
    const auto expected = size == 1   ? "MPI"
                          : gpus == 1 ? "MPI through pinned memory (ranks share a GPU)"
                                      : "NCCL " + nccl_version();
    EXPECT_EQ(grid.transport(), expected);
    Flow<std::int32_t> x(gpu, std::vector<std::int32_t>(5, 1)), y(gpu, 5);
    grid.world().all_reduce(x.view(), ReduceOp::kSum).wait();
    auto& pipeline = grid.axis(Axis::kPP);
    if (size > 1) {
      auto sent = pipeline.send(x.view(), (grid.coord()[Axis::kPP] + 1) % size, 0);
      pipeline.recv(y.view(), (grid.coord()[Axis::kPP] + size - 1) % size, 0).wait();
      y.read();
      gpu.synchronize();
      EXPECT_EQ(y.values(), std::vector<std::int32_t>(5, size));
      const auto rows = grid.traffic().rows();
      ASSERT_FALSE(rows.empty());
      EXPECT_EQ(rows.back().group, "world");
      EXPECT_EQ(rows.back().payload, 20);
    }
    EXPECT_EQ(Communicator::world().size(), size);
  }
}

}  // namespace
}  // namespace pg::comm::testing
